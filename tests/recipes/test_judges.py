from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from recipes.digits.judges import SampledMos
from torch import Tensor

from f5_tts.rewards.distill_mos import DistillMos
from f5_tts.types import RewardInput


class Length(DistillMos):
    """Judge whose score is the number of samples."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Tensor]:
        self.seen = [len(item.audio) for item in inputs]
        return {"mos": torch.tensor(self.seen, dtype=torch.float32)}


def clips(count: int) -> list[RewardInput]:
    return [RewardInput(audio=torch.zeros(length), sample_rate=16_000, text="one") for length in range(count)]


def test_every_fifth_clip_is_scored_and_the_others_have_no_score() -> None:
    judge = Length()
    scores = SampledMos(judge=judge).score(clips(12))["mos"]
    assert judge.seen == [0, 5, 10]
    assert scores.isfinite().nonzero().ravel().tolist() == [0, 5, 10]
    assert scores[[0, 5, 10]].tolist() == [0.0, 5.0, 10.0]


def test_a_distance_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"config\.every must be 1 or more, got 0"):
        SampledMos(every=0, judge=Length())
