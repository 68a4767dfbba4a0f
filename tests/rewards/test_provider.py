from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan

import pytest
import torch
from torch import Tensor

from f5_tts.rewards.provider import build_providers, component_weights, score_all
from f5_tts.rewards.voice_sim import VoiceSim
from f5_tts.sections import ProviderConfig
from f5_tts.types import RewardInput, Scored, Scores


@dataclass
class Given:
    """A provider that says what it was told to say."""

    scores: Scores
    component: str = "acc"

    def score(self, inputs) -> Scores:
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
            r"unknown key rl\.rewards\.providers\.1\.config\.wrokers \(did you mean workers\?\); digits_wer takes",
        ),
        (
            [ProviderConfig(name="voice_sim", config={"dim": 1})],
            r"unknown key rl\.rewards\.providers\.0\.config\.dim; voice_sim takes no keys",
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


# --- yours ---


def quietness(inputs: Sequence[RewardInput], scale: float = 1.0) -> Tensor:
    """A function is a provider."""
    return torch.stack([-scale * item.audio.abs().mean() for item in inputs])


class Quiet:
    """So is a class; it may score by a call and answer with a list."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [None if len(item.text) > self.patience else 1.0 for item in inputs]


class Two:
    """Several numbers at once; only `component` is the reward."""

    component = "best"

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Tensor]:
        return {"worst": torch.zeros(len(inputs)), "best": torch.ones(len(inputs))}


NOT_CALLABLE = 3


class Mute:
    pass


def scored(name: str, inputs: Sequence[RewardInput], **config) -> Scored:
    return score_all(build_providers([ProviderConfig(name=f"{__name__}:{name}", config=config)]), inputs, {})


def test_a_function_of_yours_is_a_provider_and_config_is_its_arguments():
    (found,) = scored("quietness", clips(2), scale=2.0).parts.values()
    assert found.tolist() == [-2.0, -2.0]


def test_a_class_of_yours_may_be_called_and_say_none_where_it_does_not_apply():
    key, other = f"{__name__}:Quiet.score", RewardInput(audio=torch.ones(9), sample_rate=1, text="a long story")
    found = scored("Quiet", [*clips(1), other], patience=5).parts[key]
    torch.testing.assert_close(found, torch.tensor([1.0, nan]), equal_nan=True)


def test_one_component_is_the_reward_and_the_others_are_reported():
    found = scored("Two", clips(1))
    assert list(found.parts) == [f"{__name__}:Two.best"] and list(found.reported) == [f"{__name__}:Two.worst"]


@pytest.mark.parametrize(
    "name, config, message",
    [
        (f"{__name__}:Loudness", {}, r"providers\.0\.name: module .* has no class or function 'Loudness'"),
        (f"{__name__}:NOT_CALLABLE", {}, r"has no class or function 'NOT_CALLABLE'"),
        (f"{__name__}:Mute", {}, r"cannot score: it needs a method score\(inputs\), or to be a function"),
        ("no_such_folder.rewards:Loud", {}, r"there is no module no_such_folder\.rewards .* from where you stand"),
        (f"{__name__}:Quiet", {}, r"providers\.0\.config: missing a required argument: 'patience'; .* takes patience"),
        (f"{__name__}:quietness", {"loud": 1}, r"unknown key .*config\.loud; .*quietness takes scale"),
        ("clipping", {"worst": "much"}, r"providers\.0\.config=\{'worst': 'much'\}: clipping cannot be made of it"),
    ],
)
def test_what_is_wrong_with_a_provider_of_yours_is_said_in_a_sentence(name, config, message):
    with pytest.raises(ValueError, match=message):
        build_providers([ProviderConfig(name=name, config=config)])


def test_a_module_that_imports_what_is_not_there_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "broken_reward.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        build_providers([ProviderConfig(name="broken_reward:Loud")])


def test_scores_without_the_component_that_counts_are_refused():
    with pytest.raises(ValueError, match=r"provider a gave \['sim'\], but not its 'acc'"):
        score_all({"a": Given({"sim": torch.ones(1)})}, clips(1), {})
