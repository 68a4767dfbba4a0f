from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import nan
from typing import Any

import pytest
import torch
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import MelSpecConfig, RLTrainConfig
from f5_tts.rl.advantage import RunningBaseline, group_advantages
from f5_tts.rl.scoring import RewardScorer
from f5_tts.types import RewardInput, RewardProvider, Rollout, SpeechBatch

HOP = 10


class Spelling:
    """Vocoder that repeats each frame's first bin HOP times."""

    def __call__(self, mel: Tensor, lens: Tensor) -> list[Tensor]:
        return [frames[:num, 0].repeat_interleave(HOP) for frames, num in zip(mel, lens.tolist(), strict=True)]


class Listener:
    """Reward provider that keeps its inputs and returns the given scores."""

    def __init__(self, component: str, scores: list[float]) -> None:
        self.component, self.scores = component, torch.tensor(scores)
        self.shown: list[RewardInput] = []

    def score(self, inputs: Sequence[RewardInput]) -> Tensor:
        self.shown += inputs
        return self.scores


@pytest.fixture
def mel_spec() -> MelSpecConfig:
    changes = [f"model.mel_spec.hop_length={HOP}", "model.mel_spec.target_sample_rate=500"]
    return compose_config("F5TTS_Mini_RL", changes, RLTrainConfig).model.mel_spec


@pytest.fixture
def rollout(batch: SpeechBatch) -> Rollout:
    """Build two samples of each prompt.

    A frame's first bin is 10 · sample + frame on target frames, NaN on prompt and padding.
    """
    batch = batch.repeat(2)
    frames = torch.arange(12)
    target = (frames >= batch.prompt_lens[:, None]) & (frames < batch.lens[:, None])
    value = 10.0 * torch.arange(4)[:, None] + frames
    mel = torch.where(target, value, torch.nan)[..., None].repeat(1, 1, 6)
    empty = torch.zeros(0, 4, 12, 6)
    nothing = torch.zeros(0)
    return Rollout(
        batch=batch,
        cond=torch.zeros(4, 12, 6),
        target_mask=target,
        mel=mel,
        times=nothing,
        next_times=nothing,
        states=empty,
        actions=empty,
        means=torch.zeros(0, 4, 12, 6),
        stds=torch.zeros(0, 4, 12, 6),
    )


@pytest.fixture
def scorer_of(mel_spec, rewarded) -> Callable[..., RewardScorer]:
    def make(providers: Mapping[str, RewardProvider], *changes: str) -> RewardScorer:
        return RewardScorer(Spelling(), providers, rewarded(providers, *changes), mel_spec)

    return make


def test_rewards_hear_the_generated_span_alone(rollout, scorer_of):
    listener = Listener("acc", [0.0] * 4)
    scorer_of({"ear": listener})(rollout)
    for sample, (prompt, length) in enumerate([(3, 12), (3, 12), (4, 9), (4, 9)]):
        expected = 10.0 * sample + torch.arange(prompt, length).repeat_interleave(HOP)
        assert torch.equal(listener.shown[sample].audio, expected)


def test_every_clip_comes_with_its_own_text_voice_and_rate(rollout, batch, scorer_of):
    listener = Listener("acc", [0.0] * 4)
    scorer_of({"ear": listener})(rollout)
    assert [shown.text for shown in listener.shown] == ["three four", "three four", "six", "six"]
    assert all(shown.sample_rate == 500 for shown in listener.shown)
    for sample, (item, frames) in enumerate([(0, 3), (0, 3), (1, 4), (1, 4)]):
        reference = listener.shown[sample].reference_audio
        assert reference is not None
        assert torch.equal(reference, batch.audio[item][: frames * HOP])


def test_the_voice_to_match_is_that_of_the_cut_that_was_given(rollout, batch, scorer_of):
    listener = Listener("sim", [0.0] * 4)
    cut = replace(rollout, batch=replace(rollout.batch, prompt_lens=torch.tensor([2, 2, 1, 1])))
    scorer_of({"ear": listener})(cut)
    assert [len(shown.reference_audio) for shown in listener.shown if shown.reference_audio is not None] == [
        20,
        20,
        10,
        10,
    ]


def test_a_prompt_of_its_own_is_the_voice_to_match_and_its_words_are_told(rollout, batch, scorer_of):
    listener = Listener("acc", [0.0] * 4)
    told = replace(batch, prompt_texts=["one two", "nine"], rows=[{"language": "en", "dog": "Rex"}, {}]).repeat(2)
    scorer_of({"ear": listener})(replace(rollout, batch=told))
    assert [shown.reference_text for shown in listener.shown] == ["one two", "one two", "nine", "nine"]
    assert [shown.language for shown in listener.shown] == ["en", "en", "auto", "auto"]
    assert [shown.row.get("dog") for shown in listener.shown] == ["Rex", "Rex", None, None]
    for shown, item, frames in zip(listener.shown, (0, 0, 1, 1), (3, 3, 4, 4), strict=True):
        assert shown.prompt_audio is None and shown.target_audio is not None
        assert torch.equal(shown.target_audio, batch.audio[item][frames * HOP :])


def test_a_prompt_cut_from_the_clip_leads_its_text_and_the_whole_recording_is_the_voice(rollout, batch, scorer_of):
    listener = Listener("acc", [0.0] * 4)
    scorer_of({"ear": listener}, "prompt_frac_range=[0.1,0.5]")(rollout)
    for shown, item, frames in zip(listener.shown, (0, 0, 1, 1), (3, 3, 4, 4), strict=True):
        assert shown.prompt_audio is not None and shown.reference_audio is not None and shown.target_audio is not None
        assert torch.equal(shown.prompt_audio, batch.audio[item][: frames * HOP])
        assert torch.equal(shown.reference_audio, batch.audio[item])
        assert torch.equal(torch.cat([shown.prompt_audio, shown.target_audio]), batch.audio[item])
        assert shown.reference_text == shown.text == ["three four", "six"][item]


def test_a_gate_is_checked_when_the_scorer_is_made_and_shuts_when_it_scores(rollout, scorer_of):
    providers = {"ear": Listener("acc", [1.0, 0.0, 0.5, 0.25]), "voice": Listener("sim", [0.1, 0.2, 0.3, 0.4])}
    gate = "rewards.gates=[{reward: voice.sim, by: ear.acc, within: [0.5, 1]}]"
    rewards = scorer_of(providers, gate)(rollout)
    torch.testing.assert_close(rewards.components["voice.sim"], torch.tensor([0.1, 0.0, 0.3, 0.0]))
    with pytest.raises(ValueError, match=r"gates\.0\.reward=voice\.sim is not rewarded; there are ear\.acc"):
        scorer_of({"ear": providers["ear"]}, gate)


def test_scores_keep_their_places_and_add_up_by_weight(rollout, scorer_of):
    providers = {"ear": Listener("acc", [1.0, 0.0, 0.5, 0.25]), "voice": Listener("sim", [0.1, 0.2, 0.3, 0.4])}
    scorer = scorer_of(providers)
    rewards = scorer(rollout)
    torch.testing.assert_close(rewards.total, torch.tensor([1.2, 0.4, 1.1, 1.05]))
    torch.testing.assert_close(rewards.components["ear.acc"], torch.tensor([1.0, 0.0, 0.5, 0.25]))
    assert rewards.weights == scorer.weights == {"ear.acc": 1.0, "voice.sim": 2.0}
    assert scorer.floors == {"ear.acc": 0.01, "voice.sim": 0.02}


WORDS = [[1.0, 0.5], [-1.0, -0.5], [0.25, nan], [0.75, nan]]  # word scores of "three four", then "six", twice each


class WordListener:
    """Reward provider of word scores that also reports a transcript."""

    component, has_word_scores = "acc", True

    def __init__(self, scores: list[float], words: list[list[float]]) -> None:
        self.scores, self.words = scores, torch.tensor(words)

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        return {"acc": self.scores, "words": self.words, "heard": ["3 4", "", "6", "6"], "wer": [0.5] * 4}


def test_by_word_the_clips_score_is_the_mean_over_its_words_and_at_least_zero(rollout, scorer_of):
    providers = {"ear": WordListener([9.0] * 4, WORDS), "voice": Listener("sim", [0.1, 0.2, 0.3, 0.4])}
    rewards = scorer_of(providers, "credit=word")(rollout)
    torch.testing.assert_close(rewards.components["ear.acc"], torch.tensor([0.75, 0.0, 0.25, 0.75]))
    torch.testing.assert_close(rewards.total, torch.tensor([0.95, 0.4, 0.85, 1.55]))
    assert list(rewards.frame_scores) == ["ear.acc"] and list(rewards.diagnostics) == ["ear.wer"]


def test_by_word_the_mean_of_log_likelihoods_stays_below_zero(rollout, scorer_of):
    fits = [[-1.0, -0.5], [-6.0, -6.0], [-0.25, nan], [0.0, nan]]
    rewards = scorer_of({"ear": WordListener([-9.0] * 4, fits)}, "credit=word")(rollout)
    torch.testing.assert_close(rewards.components["ear.acc"], torch.tensor([-0.75, -6.0, -0.25, 0.0]))


def test_by_sample_words_count_nothing(rollout, scorer_of):
    rewards = scorer_of({"ear": WordListener([0.5] * 4, WORDS)}, "credit=sample")(rollout)
    assert rewards.components["ear.acc"].tolist() == [0.5] * 4 and rewards.frame_scores == {}


def test_a_word_gets_its_share_of_the_generated_frames_by_its_letters(rollout, scorer_of):
    """Share nine frames between "three " and "four ", 6 to 5 letters: 9 · 6 / 11 = 4.9, so five and four.

    The word "six" gets all five frames.
    """
    frames = scorer_of({"ear": WordListener([0.0] * 4, WORDS)}, "credit=word")(rollout).frame_scores["ear.acc"]
    expected = torch.tensor(
        [
            [0.0] * 3 + [1.0] * 5 + [0.5] * 4,
            [0.0] * 3 + [-1.0] * 5 + [-0.5] * 4,
            [0.0] * 4 + [0.25] * 5 + [0.0] * 3,
            [0.0] * 4 + [0.75] * 5 + [0.0] * 3,
        ]
    )
    torch.testing.assert_close(frames, expected)


def test_a_text_without_words_gets_no_credit_and_its_neighbor_keeps_its_own(rollout, scorer_of):
    """The mean over no words does not apply; an advantage of such a sample is then zero."""
    wordless = replace(rollout.batch, target_texts=["three four", "three four", "…", "?!"])
    words = [[1.0, 0.5], [-1.0, -0.5], [nan, nan], [nan, nan]]
    scorer = scorer_of({"ear": WordListener([1.0] * 4, words)}, "credit=word")
    rewards = scorer(replace(rollout, batch=wordless))
    expected = torch.tensor([0.75, 0.0, nan, nan])
    torch.testing.assert_close(rewards.components["ear.acc"], expected, equal_nan=True)
    frames = rewards.frame_scores["ear.acc"]
    assert frames[2:].isnan().equal(rollout.target_mask[2:]) and not frames[:2].isnan().any()
    settings = {"mode": "gdpo", "method": "gdpo", "clip": 5.0}
    groups, target = torch.tensor([0, 0, 1, 1]), rollout.target_mask
    advantages = group_advantages(rewards.frame_scores, groups, scorer.weights, scorer.floors, target, **settings)
    assert advantages[2:].eq(0).all() and advantages[:2].ne(0).any()
    baseline = RunningBaseline(scorer.weights, scorer.floors, clip=5.0)
    assert baseline(rewards.frame_scores, groups, target)[2:].eq(0).all()


def test_word_scores_of_texts_without_words_alone_are_a_table_without_columns(rollout, scorer_of):
    wordless = replace(rollout.batch, target_texts=["…"] * 4)
    rewards = scorer_of({"ear": WordListener([1.0] * 4, [[]] * 4)}, "credit=word")(replace(rollout, batch=wordless))
    assert rewards.components["ear.acc"].isnan().all() and rewards.total.eq(0).all()


@pytest.mark.parametrize("credit", ["word", "sample"])
def test_texts_come_with_the_rewards_and_are_no_numbers(rollout, scorer_of, credit):
    rewards = scorer_of({"ear": WordListener([0.5] * 4, WORDS)}, f"credit={credit}")(rollout)
    assert rewards.texts == {"ear.heard": ["3 4", "", "6", "6"]}
    assert "ear.heard" not in rewards.components | rewards.diagnostics


def test_words_that_are_fewer_than_the_text_has_are_refused(rollout, scorer_of):
    with pytest.raises(ValueError, match="returned 1 for the 2 words of 'three four'"):
        scorer_of({"ear": WordListener([0.5] * 4, [[1.0]] * 4)}, "credit=word")(rollout)


def test_credit_by_word_is_refused_where_no_reward_knows_words(scorer_of):
    with pytest.raises(ValueError, match=r"rl\.credit=word, but none of the rewards \(voice\).*rl\.credit=sample"):
        scorer_of({"voice": Listener("sim", [0.0] * 4)}, "credit=word")
