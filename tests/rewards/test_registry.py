from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from f5_tts import rewards
from f5_tts.config.schema import ProviderConfig
from f5_tts.rewards.registry import build_providers, component_weights, has_word_scores, needs_words, score_all
from f5_tts.rewards.speaker.voice_sim import VoiceSim
from f5_tts.rewards.types import RewardInput as ForkInput
from f5_tts.rewards.types import RewardOutput, build_fork_reward
from f5_tts.rewards.types import RewardProvider as ForkReward
from f5_tts.types import ProviderScores, RewardInput, Scores


@dataclass
class Given:
    """Provider that returns given scores."""

    scores: Any
    component: str = "acc"

    def score(self, inputs) -> Scores:
        return self.scores


class Knowing(Given):
    has_word_scores = True


def clips(count: int) -> list[RewardInput]:
    return [RewardInput(audio=torch.ones(1600), sample_rate=16_000, text="one")] * count


@pytest.mark.parametrize(
    "name, weight, needs",
    [
        *((name, 1.0, True) for name in ("digits_wer", "digits_ctc", "funasr_wer", "speech_rate")),
        *((name, 1.0, False) for name in ("voice_sim", "wespeaker_sim", "long_silence", "clipping", "nowhere:nothing")),
        ("tests.rewards.test_registry:Knowing", 1.0, True),
        ("digits_wer", 0.0, False),  # it is only reported
    ],
)
def test_rewards_say_whether_they_compare_words(name, weight, needs):
    assert needs_words([ProviderConfig(name="clipping"), ProviderConfig(name=name, weight=weight)]) is needs


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
            r"rl\.rewards\.providers\.0\.name: no .* 'voice' \(did you mean voice_sim\?\); known: digits_wer, d",
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
    scores = score_all(providers, clips(2)).components
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
        (None, r"provider a\.acc gave None for 2 clips, not a number for each"),
        (0.5, r"provider a\.acc gave 0\.5 for 2 clips, not a number for each"),
        ([[1.0], [2.0]], r"provider a\.acc gave \[\[1\.0\], \[2\.0\]\] for 2 clips, not a number for each"),
        ({"acc": [1, 2], "loud": 3}, r"provider a\.loud gave 3 for 2 clips, not a number for each"),
        (["one", "two"], r"provider a\.acc gave texts, but a reward is a number for each clip"),
        ({"acc": [1, 2], "heard": ["one"]}, r"provider a\.heard gave \['one'\] for 2 clips; texts are a str for each"),
        ({"acc": [1, 2], "heard": "ab"}, r"provider a\.heard gave 'ab' for 2 clips; texts are a str for each"),
        ({"acc": [1, 2], "heard": ["one", None]}, r"gave \['one', None\] for 2 clips; texts are a str for each"),
    ],
)
def test_scores_of_a_wrong_shape_or_value_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        score_all({"a": Given(scores)}, clips(2))


# --- custom providers ---


def quietness(inputs: Sequence[RewardInput], scale: float = 1.0) -> Tensor:
    """Score by a function."""
    return torch.stack([-scale * item.audio.abs().mean() for item in inputs])


class Quiet:
    """Provider that scores by `__call__` and returns a list."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [None if len(item.text) > self.patience else 1.0 for item in inputs]


class Two:
    """Provider with several components, of which only `component` is the reward, and a text."""

    component = "best"

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        num = len(inputs)
        return {"worst": torch.zeros(num), "heard": ["one"] * num, "best": torch.ones(num), "words": [3] * num}


class Teacher:
    """Provider with word scores and the default component."""

    knows_words = True

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        return {"score": [0.0] * len(inputs), "words": torch.ones(len(inputs), 3)}


NOT_CALLABLE = 3


class Mute:
    pass


def scored(name: str, inputs: Sequence[RewardInput], **config) -> ProviderScores:
    return score_all(build_providers([ProviderConfig(name=f"{__name__}:{name}", config=config)]), inputs)


def test_a_function_of_yours_is_a_provider_and_config_is_its_arguments():
    (result,) = scored("quietness", clips(2), scale=2.0).components.values()
    assert result.tolist() == [-2.0, -2.0]


def test_a_class_of_yours_may_be_called_and_say_none_where_it_does_not_apply():
    key, other = f"{__name__}:Quiet.score", RewardInput(audio=torch.ones(9), sample_rate=1, text="a long story")
    result = scored("Quiet", [*clips(1), other], patience=5).components[key]
    torch.testing.assert_close(result, torch.tensor([1.0, nan]), equal_nan=True)


def test_one_component_is_the_reward_and_the_others_are_reported():
    result, name = scored("Two", clips(2)), f"{__name__}:Two"
    assert list(result.components) == [f"{name}.best"] and list(result.diagnostics) == [
        f"{name}.worst",
        f"{name}.words",
    ]
    assert result.texts == {f"{name}.heard": ["one", "one"]} and result.word_scores == {}


def test_words_belong_to_the_reward_of_a_provider_that_says_that_it_knows_them():
    result, key = scored("Teacher", clips(2)), f"{__name__}:Teacher.score"
    assert result.components[key].tolist() == [0.0, 0.0] and result.diagnostics == {}
    assert list(result.word_scores) == [key] and result.word_scores[key].tolist() == [[1.0] * 3] * 2
    providers = build_providers([ProviderConfig(name=f"{__name__}:{name}") for name in ("Teacher", "Two")])
    assert [has_word_scores(provider) for provider in providers.values()] == [True, False]


@pytest.mark.parametrize(
    "words, message",
    [
        ({}, r"provider a gave \['acc'\], but not its 'words'"),
        ({"words": [[1.0], [0.0]]}, r"provider a\.words gave list for 2 clips; words are a tensor, 2 x w"),
        ({"words": torch.ones(2)}, r"provider a\.words gave shape \(2,\) for 2 clips"),
        ({"words": torch.ones(3, 2)}, r"provider a\.words gave shape \(3, 2\) for 2 clips"),
        ({"words": torch.tensor([[1, nan], [1, inf]])}, r"provider a\.words gave clips \[1\] of 2 an infinite score"),
    ],
)
def test_words_that_are_none_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        score_all({"a": Knowing({"acc": [1, 2], **words})}, clips(2))


class PerClip(ForkReward):
    """Reward of the fork that gets its settings by `setup`, and gives an output for each clip."""

    def __init__(self) -> None:
        self.scale = 1.0

    def setup(self, cfg: dict[str, Any] | None = None) -> None:
        self.scale = (cfg or {})["scale"]

    def compute(self, batch: list[ForkInput]) -> list[RewardOutput]:
        totals = [self.scale * item.audio.mean() for item in batch]
        voices = [item.speaker_ref is not None for item in batch]
        return [RewardOutput(total, {"voice": voice}) for total, voice in zip(totals, voices, strict=True)]

    def supports_language(self, lang: str) -> bool:
        return lang == "zh"


class Together:
    """Reward of the fork without its base class: settings by the constructor, one output for all clips."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def compute(self, batch: list[ForkInput]) -> RewardOutput:
        return RewardOutput(torch.stack([self.scale * item.audio.mean() for item in batch]))


def test_rewards_of_the_fork_score_by_compute():
    items = [
        replace(clips(1)[0], audio=torch.full((4,), level), language=language, reference_audio=voice)
        for level, language, voice in ((0.5, "zh", torch.zeros(1)), (1.0, "en", None), (0.25, "auto", None))
    ]
    entries = [ProviderConfig(name=f"{__name__}:{name}", config={"scale": 2.0}) for name in ("PerClip", "Together")]
    providers = build_providers(entries)
    scores = score_all(providers, items)
    per_clip = scores.components[f"{__name__}:PerClip.total"]
    assert per_clip[[0, 2]].tolist() == [1.0, 0.5] and per_clip[1].isnan()  # a language that it does not support
    assert scores.diagnostics[f"{__name__}:PerClip.voice"][[0, 2]].tolist() == [1.0, 0.0]
    assert scores.components[f"{__name__}:Together.total"].tolist() == [1.0, 2.0, 0.5]
    assert component_weights(entries, providers) == {f"{entry.name}.total": 1.0 for entry in entries}


def test_the_names_that_rewards_of_the_fork_import_are_there():
    assert (rewards.RewardProvider, rewards.RewardOutput, rewards.RewardInput) == (ForkReward, RewardOutput, ForkInput)


def test_a_reward_of_the_fork_with_too_few_numbers_is_named():
    class Short(Together):
        def compute(self, batch: list[ForkInput]) -> RewardOutput:
            return RewardOutput(torch.ones(1))

    with pytest.raises(ValueError, match=r"reward provider short .*compute gave 1 numbers for 2 clips"):
        score_all({"short": build_fork_reward(Short, {})}, clips(2))


@pytest.mark.parametrize(
    "name, config, message",
    [
        ("wespeaker_sim", {"cache_dir": "a"}, r"config\.cache_dir \(embeddings of references are cached in memory"),
        (f"{__name__}:Loudness", {}, r"providers\.0\.name: module .* has no class or function 'Loudness'"),
        (f"{__name__}:NOT_CALLABLE", {}, r"has no class or function 'NOT_CALLABLE'"),
        (f"{__name__}:Mute", {}, r"cannot score: it needs a method score\(inputs\), or to be a function"),
        (":Loud", {}, r"no reward provider is called ':Loud'; .*, or your own as module:attribute"),
        (".rewards:Loud", {}, r"no reward provider is called '\.rewards:Loud'"),
        (
            "no_such_folder.rewards:Loud",
            {},
            r"there is no module no_such_folder\.rewards .*, neither installed nor in the working directory",
        ),
        (f"{__name__}:Quiet", {}, r"providers\.0\.config: missing a required argument: 'patience'; .* takes patience"),
        (f"{__name__}:quietness", {"loud": 1}, r"unknown key .*config\.loud; .*quietness takes scale"),
        ("clipping", {"worst": "much"}, r"providers\.0\.config=\{'worst': 'much'\}: clipping cannot be built from it"),
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


def test_code_in_the_working_directory_is_found_by_a_console_script_too(tmp_path, monkeypatch):
    """Python puts the script's own folder where it puts the working directory for `python -m`."""
    (tmp_path / "reward_of_this_folder.py").write_text("def silence(inputs): return [0.0 for _ in inputs]")
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", str(Path.cwd()))])
    monkeypatch.chdir(tmp_path)
    scored = score_all(build_providers([ProviderConfig(name="reward_of_this_folder:silence")]), clips(2))
    assert scored.components["reward_of_this_folder:silence.score"].tolist() == [0, 0]


def test_scores_without_the_component_that_counts_are_refused():
    with pytest.raises(ValueError, match=r"provider a gave \['sim'\], but not its 'acc'"):
        score_all({"a": Given({"sim": torch.ones(1)})}, clips(1))
