from __future__ import annotations

from math import nan

import pytest
import torch
from torch import Tensor

from f5_tts.config.schema import GateConfig
from f5_tts.rewards.combine import check_gates, combine
from f5_tts.types import ProviderScores, RewardBatch

SIMILAR_WHERE_RIGHT = GateConfig(reward="voice.sim", by="ear.wer", within=[0.0, 0.3])


def combined(parts: dict[str, Tensor], weights: dict[str, float], *gates: GateConfig, **more) -> RewardBatch:
    return combine(ProviderScores(parts, more.get("reported", {})), weights, gates, more.get("frames", {}))


def test_total_is_the_weighted_sum_and_parts_stay_raw():
    parts = {"digits_wer.acc": torch.tensor([1.0, 0.5]), "voice_sim.sim": torch.tensor([0.25, -1.0])}
    rewards = combined(parts, {"voice_sim.sim": 2.0, "digits_wer.acc": 3.0})
    torch.testing.assert_close(rewards.total, torch.tensor([3.5, -0.5]))
    torch.testing.assert_close(rewards.components["voice_sim.sim"], torch.tensor([0.25, -1.0]))


def test_the_total_is_of_what_applies():
    parts = {"a.acc": torch.tensor([1.0, nan, nan]), "b.sim": torch.tensor([0.5, 0.5, nan])}
    rewards = combined(parts, {"a.acc": 2.0, "b.sim": 1.0})
    torch.testing.assert_close(rewards.total, torch.tensor([2.5, 0.5, 0.0]))
    assert rewards.components["a.acc"].isnan().tolist() == [False, True, True]


@pytest.mark.parametrize(
    "parts, weights",
    [({}, {}), ({"a.acc": torch.ones(2)}, {"b.acc": 1.0}), ({"a.acc": torch.ones(2)}, {"a.acc": 1.0, "b.sim": 1.0})],
    ids=["nothing", "another name", "a weight too many"],
)
def test_every_score_needs_its_weight(parts, weights):
    with pytest.raises(ValueError, match=r"each reward needs a score and a weight.*rl\.rewards\.providers"):
        combined(parts, weights)


def test_similarity_counts_only_under_an_error_rate_and_is_said_where_it_did_not():
    """Include both bounds in the range; an error rate of NaN leaves the gate open."""
    parts = {"voice.sim": torch.tensor([0.9, 0.8, 0.7, 0.6]), "ear.acc": torch.tensor([1.0, 0.7, 0.5, nan])}
    reported = {"ear.wer": torch.tensor([0.0, 0.3, 0.5, nan])}
    rewards = combined(parts, {"voice.sim": 1.0, "ear.acc": 0.0}, SIMILAR_WHERE_RIGHT, reported=reported)
    torch.testing.assert_close(rewards.components["voice.sim"], torch.tensor([0.9, 0.8, 0.0, 0.6]))
    torch.testing.assert_close(rewards.total, torch.tensor([0.9, 0.8, 0.0, 0.6]))
    assert rewards.diagnostics["voice.sim.gated"].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert parts["voice.sim"][2] == 0.7  # raw scores do not change


def test_gates_read_raw_scores_and_all_must_be_open():
    """Gate b by a and a by b, which must not change what the other gate reads.

    The first closes for sample 0, the second for sample 1. Reward c needs both.
    """
    parts = {
        name: torch.tensor(scores) for name, scores in {"a.x": [0.0, 1.0], "b.x": [1.0, 0.0], "c.x": [1.0, 1.0]}.items()
    }
    gates = [GateConfig(reward=r, by=by, within=[0.5, 1.0]) for r, by in ("ba", "ab", "ca", "cb")]
    for gate in gates:
        gate.reward, gate.by = f"{gate.reward}.x", f"{gate.by}.x"
    rewards = combined(parts, dict.fromkeys(parts, 1.0), *gates)
    assert {name: score.tolist() for name, score in rewards.components.items()} == {name: [0.0, 0.0] for name in parts}


def test_a_gated_reward_that_knows_words_is_shut_in_all_its_frames():
    parts = {"ear.acc": torch.tensor([1.0, 0.5])}
    frames = {"ear.acc": torch.tensor([[1.0, 1.0], [0.0, 1.0]])}
    gate = GateConfig(reward="ear.acc", by="clipping.ok", within=[0.9, 1.0])
    reported = {"clipping.ok": torch.tensor([1.0, 0.2])}
    rewards = combined(parts, {"ear.acc": 1.0}, gate, reported=reported, frames=frames)
    assert rewards.frame_scores["ear.acc"].tolist() == [[1.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    "reward, by, message",
    [
        ("voice.cos", "ear.wer", r"rl\.rewards\.gates\.0\.reward=voice\.cos is not rewarded; there are voice\.sim"),
        ("voice.sim", "wer", r"rl\.rewards\.gates\.0\.by=wer is of no provider; write .*, with voice or ear"),
    ],
)
def test_a_gate_that_names_nothing_is_refused_before_a_run(reward, by, message):
    with pytest.raises(ValueError, match=message):
        check_gates([GateConfig(reward=reward, by=by, within=[0.0, 1.0])], ["voice.sim"], ["voice", "ear"])


def test_a_gate_by_a_component_that_nobody_gave_is_named():
    with pytest.raises(ValueError, match=r"ear\.wer in `by` was not scored; there are voice\.sim"):
        combined({"voice.sim": torch.ones(1)}, {"voice.sim": 1.0}, SIMILAR_WHERE_RIGHT)
