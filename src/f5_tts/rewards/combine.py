"""Gates and weights of scores (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from f5_tts.config.schema import GateConfig
from f5_tts.types import RewardBatch, Scored


def combine(
    scored: Scored, weights: Mapping[str, float], gates: Sequence[GateConfig], frames: Mapping[str, Tensor]
) -> RewardBatch:
    """Scores behind their gates, and their total: the weighted sum of the parts that apply.

    A gated score is 0 where the gate's `by` lies outside `within`; where `by` does not apply, the gate is open. Every
    gate reads the raw scores, whatever other gates do.

    Args:
        scored: raw scores by "<provider>.<component>".
        weights: of each part.
        gates: `rl.rewards.gates`.
        frames: parts that know which word earned them.
    """
    parts = scored.parts
    if not parts or parts.keys() != weights.keys():
        raise ValueError(
            f"each reward needs a score and a weight: scores {sorted(parts)}, weights {sorted(weights)}; "
            "see rl.rewards.providers"
        )
    shut = {gate.reward: torch.zeros_like(parts[gate.reward], dtype=torch.bool) for gate in gates}
    for gate in gates:
        shut[gate.reward] |= is_outside(find(scored, gate.by), gate.within)
    parts = {name: masked(score, shut.get(name)) for name, score in parts.items()}
    total = torch.stack([weights[name] * score for name, score in parts.items()]).nansum(dim=0)
    frames = {name: masked(score, shut.get(name)) for name, score in frames.items()}
    reported = dict(scored.reported)
    reported |= {f"{name}.gated": mask.float() for name, mask in shut.items()}
    return RewardBatch(
        total=total, parts=parts, weights=dict(weights), frames=frames, reported=reported, texts=scored.texts
    )


def is_outside(scores: Tensor, within: Sequence[float]) -> Bool[Tensor, " b"]:
    low, high = within
    return (scores < low) | (scores > high)


def masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Zeros for the samples of the mask."""
    return scores if mask is None else scores.masked_fill(mask.view(-1, *[1] * (scores.ndim - 1)), 0.0)


def find(scored: Scored, name: str) -> Tensor:
    """A score that is rewarded or reported; ValueError for one that is neither."""
    known = scored.parts | scored.reported
    if name not in known:
        raise ValueError(f"rl.rewards.gates: {name} in `by` was not scored; there are {', '.join(known)}")
    return known[name]


def check_gates(gates: Sequence[GateConfig], rewarded: Iterable[str], providers: Iterable[str]) -> None:
    """ValueError for a gate of a reward that is none, or by a provider that is none."""
    for place, gate in enumerate(gates):
        if gate.reward not in rewarded:
            raise ValueError(
                f"rl.rewards.gates.{place}.reward={gate.reward} is not rewarded; there are {', '.join(rewarded)}"
            )
        if not gate.by.startswith(tuple(f"{name}." for name in providers)):
            raise ValueError(
                f"rl.rewards.gates.{place}.by={gate.by} is of no provider; write <provider>.<component>, with "
                f"{' or '.join(providers)}"
            )
