"""Gates and weights of scores (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from f5_tts.sections import GateConfig
from f5_tts.types import RewardBatch, Scored


def gated(scored: Scored, gates: Sequence[GateConfig]) -> Scored:
    """Scores with 0 where a gate's `by` lies outside `within`; where `by` does not apply, the gate is open.

    Every gate reads the raw scores, whatever other gates do. Raises ValueError for a name that nothing was scored by.
    """
    raw = scored.parts | scored.reported
    parts = dict(scored.parts)
    for place, gate in enumerate(gates):
        where = f"rl.rewards.gates.{place}"
        if gate.reward not in parts:
            raise ValueError(f"{where}.reward={gate.reward} is not rewarded; there are {', '.join(parts)}")
        if gate.by not in raw:
            raise ValueError(f"{where}.by={gate.by} was not scored; there are {', '.join(raw)}")
        low, high = gate.within
        parts[gate.reward] = parts[gate.reward].masked_fill((raw[gate.by] < low) | (raw[gate.by] > high), 0.0)
    return replace(scored, parts=parts)


def combine(scored: Scored, weights: dict[str, float], frames: dict[str, Tensor] | None = None) -> RewardBatch:
    """Total reward: the weighted sum of the parts that apply; `frames` are parts that know which word earned them."""
    parts = scored.parts
    if not parts or parts.keys() != weights.keys():
        raise ValueError(
            f"each reward needs a score and a weight: scores {sorted(parts)}, weights {sorted(weights)}; "
            "see rl.rewards.providers"
        )
    total = torch.stack([weights[name] * score for name, score in parts.items()]).nansum(dim=0)
    return RewardBatch(total=total, parts=parts, weights=weights, frames=frames or {}, reported=scored.reported)
