from __future__ import annotations

from dataclasses import dataclass
from math import inf

import pytest
import torch
from torch import Tensor

from f5_tts.rewards.provider import build_providers, component_weights, score_all
from f5_tts.rewards.voice_sim import VoiceSim
from f5_tts.sections import ProviderConfig
from f5_tts.types import RewardInput


@dataclass
class Given:
    """A provider that says what it was told to say."""

    scores: Tensor
    component: str = "acc"

    def score(self, inputs) -> Tensor:
        return self.scores


def clips(count: int) -> list[RewardInput]:
    return [RewardInput(audio=torch.ones(1600), sample_rate=16_000, text="one")] * count


def test_entries_become_providers_by_name():
    providers = build_providers(
        [ProviderConfig(name="voice_sim"), ProviderConfig(name="digits_wer", config={"workers": 1})]
    )
    assert list(providers) == ["voice_sim", "digits_wer"]
    assert isinstance(providers["voice_sim"], VoiceSim) and providers["digits_wer"].component == "acc"


@pytest.mark.parametrize(
    "entries, message",
    [
        (
            [ProviderConfig(name="voice")],
            r"rl\.rewards\.providers\.0\.name: no .* called 'voice'; there are digits_wer, voice_sim",
        ),
        (
            [ProviderConfig(name="voice_sim")] * 2,
            r"rl\.rewards\.providers\.1\.name: 'voice_sim' is already in the list",
        ),
        (
            [ProviderConfig(name="voice_sim"), ProviderConfig(name="digits_wer", config={"wrokers": 1})],
            r"rl\.rewards\.providers\.1\.config: .*'wrokers'; digits_wer takes workers",
        ),
        (
            [ProviderConfig(name="voice_sim", config={"dim": 1})],
            r"rl\.rewards\.providers\.0\.config: .*'dim'; voice_sim takes no keys",
        ),
        ([ProviderConfig(name="digits_wer", config={"workers": 0})], r"workers must be a whole number from 1, got 0"),
    ],
)
def test_a_wrong_entry_is_named_with_what_is_allowed(entries, message):
    with pytest.raises(ValueError, match=message):
        build_providers(entries)


def test_scores_and_weights_go_by_provider_and_component():
    providers = {"a": Given(torch.tensor([1.0, 2.0])), "b": Given(torch.tensor([3.0, 4.0]), component="sim")}
    scores = score_all(providers, clips(2), {}).parts
    assert {name: score.tolist() for name, score in scores.items()} == {"a.acc": [1.0, 2.0], "b.sim": [3.0, 4.0]}
    assert component_weights(
        [ProviderConfig(name="b", weight=2.0), ProviderConfig(name="a", weight=0.5)], providers
    ) == {"b.sim": 2.0, "a.acc": 0.5}


@pytest.mark.parametrize(
    "scores, message",
    [
        (torch.ones(3), r"provider a\.acc gave scores of shape \(3,\) for 2 clips"),
        (torch.ones(2, 1), r"provider a\.acc gave scores of shape \(2, 1\) for 2 clips"),
        (torch.tensor([1.0, inf]), r"provider a\.acc gave clips \[1\] of 2 an infinite score"),
    ],
)
def test_scores_of_a_wrong_shape_or_value_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        score_all({"a": Given(scores)}, clips(2), {})
