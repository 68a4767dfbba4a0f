from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.rewards.gradients import relative_error
from tests.rewards.sensevoice import LETTERS, RATE, tones
from torch import Tensor, nn

from f5_tts.rewards.asr.funasr_wer import FunasrWer
from f5_tts.rewards.asr.sensevoice_loss import TextLikelihood, front_end, low_frame_rate, token_nats, written
from f5_tts.types import RewardInput

pytestmark = pytest.mark.slow

slow = pytest.mark.slow  # importing funasr takes ten seconds, training its tiny model eight


@pytest.fixture(scope="module")
def reward(hearing_directory: Path) -> FunasrWer:
    return FunasrWer(str(hearing_directory))


@pytest.fixture
def double_reward(hearing_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FunasrWer]:
    """Return a reward in double precision, in which funasr's layer norms would round to single precision."""
    from funasr.models.sense_voice.model import LayerNorm

    monkeypatch.setattr(LayerNorm, "forward", nn.LayerNorm.forward)
    reward = FunasrWer(str(hearing_directory))
    reward.recognizer.model.double()
    yield reward


def clip(text: str, *, says: str | None = None, noise: float = 0.0, language: str = "auto") -> RewardInput:
    return RewardInput(audio=tones(says or text, noise), sample_rate=RATE, text=text, language=language)


def nats_per_token(reward: FunasrWer, wave: Tensor, ids: list[int], language: str) -> Tensor:
    return token_nats(reward.likelihood.log_probabilities(wave, language), ids)


# --- features ---


@slow
@pytest.mark.parametrize("num_samples", [400, 1_600, 5_000, 24_000, 31_999])
@pytest.mark.parametrize("level", [1e-3, 0.1, 1.0])
def test_features_are_those_of_funasrs_own_front_end(reward: FunasrWer, num_samples, level):
    """Compare with WavFrontend, whose filter bank is computed by kaldi-native-fbank.

    A band without energy holds what single precision leaves of the frame's energy, which differs by processor: one
    element in a thousand may differ by 1e-3.
    """
    wave = level * torch.randn(num_samples, generator=torch.Generator().manual_seed(num_samples))
    frontend = reward.recognizer.frontend
    expected, _ = frontend(wave[None], torch.tensor([num_samples]))
    ours = front_end(wave, frontend)
    assert torch.isclose(ours, expected[0], atol=1e-4, rtol=1e-4).float().mean() >= 0.999
    torch.testing.assert_close(ours, expected[0], atol=1e-3, rtol=1e-4)


@slow
@pytest.mark.parametrize("name", ["low_314", "high_9265"])
def test_features_of_speech_are_those_of_funasrs_own_front_end(reward: FunasrWer, spoken, name):
    frontend, wave = reward.recognizer.frontend, spoken(name)
    expected, _ = frontend(wave[None], torch.tensor([len(wave)]))
    torch.testing.assert_close(front_end(wave, frontend), expected[0], atol=1e-4, rtol=1e-4)


def test_seven_frames_are_stacked_around_every_sixth_and_the_ends_are_repeated():
    stacked = low_frame_rate(torch.arange(8.0)[:, None], 7, 6)
    assert stacked.tolist() == [[0, 0, 0, 0, 1, 2, 3], [3, 4, 5, 6, 7, 7, 7]]


# --- texts ---


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Hello, World!", "en", "hello world"),
        ("I don’t know: 'maybe' 42.", "en", "i don't know maybe forty two"),
        ("今天气温 12 度，不错。", "zh", "今天气温十二度不错"),
        ("我 love 你", "zh", "我love你"),
        ("两个人", "zh", "两个人"),
        ("２０个", "yue", "二十个"),
        ("それは 3 です。", "ja", "それは三です"),
        ("안녕 하세요!", "ko", "안녕 하세요"),
        ("...", "en", ""),
    ],
)
def test_a_text_is_written_as_the_model_writes_it(text, language, expected):
    assert written(text, language) == expected


@slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_tokens_are_those_that_the_model_writes(reward: FunasrWer, language):
    """Compare with the path of most likely tokens of a clip that the model recognizes."""
    text = LETTERS[language][:5]
    scores = reward.likelihood.log_probabilities(tones(text), language)
    path = scores.argmax(dim=1).unique_consecutive()
    assert path[path != 0].tolist() == reward.likelihood.token_ids(f" {text.upper()}. ", language)


@slow
def test_symbols_that_the_model_does_not_know_are_left_out(reward: FunasrWer):
    assert reward.likelihood.token_ids("aбb", "en") == reward.likelihood.token_ids("ab", "en")
    assert reward.likelihood.token_ids("?!", "en") == []


# --- likelihood ---


@slow
def test_the_loss_sums_the_probability_of_all_alignments(reward: FunasrWer):
    """Enumerate the paths of three frames, of letters, blanks and others, that spell the two tokens."""
    wave = tones("ab")[:3_000]  # 17 frames of 10 ms, three of 60 ms
    likelihood = reward.likelihood
    scores = likelihood.log_probabilities(wave, "en").double()
    first, second = likelihood.token_ids("ab", "en")
    assert len(scores) == 3
    paths = [[first, second, 0], [first, 0, second], [0, first, second]]
    paths += [[first, first, second], [first, second, second]]
    total = torch.stack([scores[torch.arange(3), path].sum() for path in paths]).logsumexp(dim=0)
    result = nats_per_token(reward, wave, [first, second], "en")
    torch.testing.assert_close(result.double(), -total / 2, atol=1e-5, rtol=1e-5)


@slow
def test_the_loss_is_capped_and_grows_with_each_wrong_letter(reward: FunasrWer):
    losses = reward.loss([clip("abcd"), clip("abcd", says="abce"), clip("abcd", says="hgfe")])
    assert losses.tolist() == sorted(losses.tolist()) and losses[0] < 0.1 and losses[2] < 6
    nats = torch.stack(
        [
            nats_per_token(reward, tones(says), reward.likelihood.token_ids("abcd", "en"), "auto")
            for says in ("abcd", "abce", "hgfe")
        ]
    )
    torch.testing.assert_close(losses, 6 * (nats / 6).tanh())


@slow
def test_the_language_of_the_query_is_that_of_scoring(reward: FunasrWer, hearing_directory: Path):
    text = "东南西"
    own, auto = reward.loss([clip(text, language="zh"), clip(text)]).tolist()
    assert own < 0.5 < auto  # auto hears the tones as letters
    fixed = FunasrWer(str(hearing_directory), lang="zh").loss([clip(text, language="en")])
    assert fixed.item() == pytest.approx(own)


@slow
def test_the_prompt_is_heard_before_the_clip(reward: FunasrWer):
    item = clip("abcdef", says="def")
    with_prompt, alone = reward.loss([replace(item, prompt_audio=tones("abc")), item]).tolist()
    assert with_prompt < 0.5 < alone


@slow
def test_with_ref_source_audio_the_text_is_what_the_recording_says(hearing_directory: Path):
    reward = FunasrWer(str(hearing_directory), ref_source="audio")
    item = replace(clip("abc", says="fgh"), target_audio=tones("fgh"), prompt_audio=tones("abc"))
    losses = reward.loss([item, replace(item, target_audio=None)])
    assert losses[0] < 0.5 and losses[1].isnan()


@slow
def test_clips_to_which_the_loss_does_not_apply_are_nan_without_a_gradient(reward: FunasrWer):
    good = tones("abc")
    audio = [x.clone().requires_grad_() for x in (good, good, good[:1_500], torch.zeros(8_000))]
    texts = ["abc", "?!", "a", "abc"]
    inputs = [RewardInput(audio=x, sample_rate=RATE, text=t) for x, t in zip(audio, texts, strict=True)]
    losses = reward.loss(inputs)
    assert losses.isnan().tolist() == [False, True, True, True]
    losses[0].backward()
    assert [x.grad is not None for x in audio] == [True, False, False, False]


@slow
def test_a_clip_that_is_too_short_for_its_text_has_the_largest_loss_and_no_gradient(reward: FunasrWer):
    audio = tones("abc")[:2_000].requires_grad_()
    loss = reward.loss([RewardInput(audio=audio, sample_rate=RATE, text="aabbccddee")])
    loss.sum().backward()
    assert loss.tolist() == [6.0] and audio.grad is not None and not audio.grad.any()


@slow
def test_a_text_fits_a_clip_with_a_frame_for_each_token_and_one_between_equal_ones(reward: FunasrWer):
    frames = 1 + (5_000 - 400) // 160  # 29 of 10 ms, five of 60 ms
    assert math.ceil(frames / 6) == 5
    fits = [reward.likelihood.fits(5_000, ids) for ids in ([1, 2, 3, 4, 5], [1, 1, 2, 3], [1, 1, 2, 2], [1] * 4)]
    assert fits == [True, True, False, False]
    wave = torch.randn(5_000, generator=torch.Generator().manual_seed(0))
    finite = [nats_per_token(reward, wave, ids, "en").isfinite() for ids in ([1, 1, 2, 3], [1, 1, 2, 2, 3])]
    assert finite == [True, False]


@slow
@pytest.mark.parametrize("says", ["abcd", "abce", "hgfe"])
def test_the_gradient_agrees_with_finite_differences(double_reward: FunasrWer, says):
    audio = tones(says, noise=0.1)

    def loss(wave: torch.Tensor) -> torch.Tensor:
        return double_reward.loss([RewardInput(audio=wave, sample_rate=RATE, text="abcd")])[0]

    assert relative_error(loss, audio, step=1e-7) < 1e-3


# --- the dense score ---


@slow
def test_fit_is_minus_the_loss_and_tells_apart_what_is_heard_right(hearing_directory: Path):
    reward = FunasrWer(str(hearing_directory), component="fit")
    inputs = [clip("abcd"), clip("abcd", noise=0.5)]
    scores = reward.score(inputs)
    assert reward.component == "fit" and scores["acc"].tolist() == [1.0, 1.0]
    torch.testing.assert_close(scores["fit"], -reward.loss(inputs))
    assert scores["fit"][0] > scores["fit"][1]


@slow
def test_fit_is_worst_for_unusable_and_short_clips_and_nan_without_a_text(hearing_directory: Path):
    reward = FunasrWer(str(hearing_directory), component="fit", cap=4.0)
    inputs = [
        clip("abc"),
        RewardInput(audio=torch.zeros(8_000), sample_rate=RATE, text="abc"),
        RewardInput(audio=tones("a"), sample_rate=RATE, text="abcdefgh"),
        clip("?!", says="abc"),
    ]
    with pytest.warns(UserWarning, match="worst score"):
        fit = reward.score(inputs)["fit"]
    torch.testing.assert_close(fit[1:], torch.tensor([-4.0, -4.0, math.nan]), equal_nan=True)
    assert -4 < fit[0] <= 0


@slow
def test_without_fit_as_the_reward_it_is_not_computed(reward: FunasrWer):
    assert reward.component == "acc" and "fit" not in reward.score([clip("abc")])


@slow
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"component": "wer"}, "config.component='wer' is none of acc, fit"),
        ({"cap": 0.0}, "config.cap must be a number above 0, got 0.0"),
        ({"cap": math.inf}, "config.cap must be a number above 0, got inf"),
    ],
)
def test_other_settings_are_refused(hearing_directory: Path, config, message):
    with pytest.raises(ValueError, match=message):
        FunasrWer(str(hearing_directory), **config)


@slow
def test_another_front_end_has_no_gradient_here(hearing_directory: Path):
    reward = FunasrWer(str(hearing_directory))
    reward.recognizer.frontend.window = "hanning"
    with pytest.raises(ValueError, match=r"frontend_conf\.window: hanning, but .* computed for hamming"):
        TextLikelihood(reward.recognizer)
