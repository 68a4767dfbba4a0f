from __future__ import annotations

import pytest
import torch

from f5_tts.rewards.combine import combine
from f5_tts.types import Scored


def test_total_is_the_weighted_sum_and_parts_stay_raw():
    parts = {"digits_wer.acc": torch.tensor([1.0, 0.5]), "voice_sim.sim": torch.tensor([0.25, -1.0])}
    rewards = combine(Scored(parts, {}), {"voice_sim.sim": 2.0, "digits_wer.acc": 3.0})
    torch.testing.assert_close(rewards.total, torch.tensor([3.5, -0.5]))
    torch.testing.assert_close(rewards.parts["voice_sim.sim"], torch.tensor([0.25, -1.0]))


@pytest.mark.parametrize(
    "parts, weights",
    [({}, {}), ({"a.acc": torch.ones(2)}, {"b.acc": 1.0}), ({"a.acc": torch.ones(2)}, {"a.acc": 1.0, "b.sim": 1.0})],
    ids=["nothing", "another name", "a weight too many"],
)
def test_every_score_needs_its_weight(parts, weights):
    with pytest.raises(ValueError, match=r"each reward needs a score and a weight.*rl\.rewards\.providers"):
        combine(Scored(parts, {}), weights)
