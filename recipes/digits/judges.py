"""Naturalness of a part of the clips: DistillMOS takes ten times as long as all other judges of the digit recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from f5_tts.rewards.distill_mos import DistillMos
from f5_tts.types import RewardInput

EVERY = 5  # not a divisor of the number of items, so that both takes contribute


class SampledMos:
    """Mean opinion score of every fifth clip, by DistillMOS, in [1, 5]; NaN for the others.

    Args:
        every: distance of the scored clips in the list; 1 or more.
        judge: what scores them; default: DistillMOS on the CPU.
    """

    component = "mos"

    def __init__(self, every: int = EVERY, judge: DistillMos | None = None):
        if every < 1:
            raise ValueError(f"SampledMos: config.every must be 1 or more, got {every}")
        self.every, self.judge = every, judge or DistillMos()

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        """Score every fifth clip, from the first one on."""
        scores = torch.full((len(inputs),), math.nan)
        scores[:: self.every] = self.judge.score(inputs[:: self.every])["mos"]
        return {"mos": scores}
