"""Weights and shaping of scores (pure)."""

from __future__ import annotations

import torch
from torch import Tensor

from f5_tts.types import RewardBatch


def combine(parts: dict[str, Tensor], weights: dict[str, float]) -> RewardBatch:
    """Total reward: the weighted sum of the parts, by name "<provider>.<component>"."""
    if not parts or parts.keys() != weights.keys():
        raise ValueError(
            f"each reward needs a score and a weight: scores {sorted(parts)}, weights {sorted(weights)}; "
            "see rl.rewards.providers"
        )
    total = torch.stack([weights[name] * score for name, score in parts.items()]).sum(dim=0)
    return RewardBatch(total=total, parts=parts, weights=weights)
