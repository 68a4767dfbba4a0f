"""Gates and weighted sum of reward scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from f5_tts.config.schema import GateConfig
from f5_tts.types import ProviderScores, RewardBatch


def combine(
    scores: ProviderScores,
    weights: Mapping[str, float],
    gates: Sequence[GateConfig],
    frame_scores: Mapping[str, Tensor],
) -> RewardBatch:
    """Apply the gates to the scores and compute the total: the weighted sum of the scores that are not NaN.

    A gated score becomes 0 where the score named by the gate's `by` is outside `within`. Where that score is NaN, the
    gate is open. All gates read the raw scores, so their order does not matter.

    Args:
        scored: raw scores by "<provider>.<component>".
        weights: weight of each rewarded component.
        gates: `rl.rewards.gates`.
        frames: frame scores of the components that have word scores.
    """
    components = scores.components
    if not components or components.keys() != weights.keys():
        raise ValueError(
            f"each reward needs a score and a weight: scores {sorted(components)}, weights {sorted(weights)}; "
            "see rl.rewards.providers"
        )
    closed = {gate.reward: torch.zeros_like(components[gate.reward], dtype=torch.bool) for gate in gates}
    for gate in gates:
        closed[gate.reward] |= is_outside(lookup_score(scores, gate.by), gate.within)
    components = {name: zero_where(score, closed.get(name)) for name, score in components.items()}
    total = torch.stack([weights[name] * score for name, score in components.items()]).nansum(dim=0)
    frame_scores = {name: zero_where(score, closed.get(name)) for name, score in frame_scores.items()}
    diagnostics = dict(scores.diagnostics)
    diagnostics |= {f"{name}.gated": mask.float() for name, mask in closed.items()}
    return RewardBatch(
        total=total,
        components=components,
        weights=dict(weights),
        frame_scores=frame_scores,
        diagnostics=diagnostics,
        texts=scores.texts,
    )


def is_outside(scores: Tensor, within: Sequence[float]) -> Bool[Tensor, " b"]:
    """Check for each sample whether its score is outside the closed range; False for NaN."""
    low, high = within
    return (scores < low) | (scores > high)


def zero_where(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Set the scores of the masked samples to zero."""
    return scores if mask is None else scores.masked_fill(mask.view(-1, *[1] * (scores.ndim - 1)), 0.0)


def lookup_score(scores: ProviderScores, name: str) -> Tensor:
    """Return a rewarded or reported score by name; raise ValueError if there is none."""
    known = scores.components | scores.diagnostics
    if name not in known:
        raise ValueError(f"rl.rewards.gates: {name} in `by` was not scored; there are {', '.join(known)}")
    return known[name]


def check_gates(gates: Sequence[GateConfig], rewarded: Iterable[str], providers: Iterable[str]) -> None:
    """Raise ValueError for a gate whose reward or whose `by` provider is not configured."""
    for index, gate in enumerate(gates):
        if gate.reward not in rewarded:
            raise ValueError(
                f"rl.rewards.gates.{index}.reward={gate.reward} is not rewarded; there are {', '.join(rewarded)}"
            )
        if not gate.by.startswith(tuple(f"{name}." for name in providers)):
            raise ValueError(
                f"rl.rewards.gates.{index}.by={gate.by} is of no provider; write <provider>.<component>, with "
                f"{' or '.join(providers)}"
            )
