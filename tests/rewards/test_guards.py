from __future__ import annotations

from math import nan

import pytest
import torch
from tests.rewards.gradients import relative_error
from torch import Tensor

from f5_tts.config.schema import ProviderConfig
from f5_tts.rewards.guards import Clicks, Clipping, F0Spread, LongSilence, SpeechRate
from f5_tts.rewards.measures import longest_silence
from f5_tts.rewards.registry import build_providers
from f5_tts.types import DifferentiableReward, RewardInput

RATE = 8_000


def tone(seconds: float, level: float = 0.5) -> Tensor:
    return level * torch.sin(2 * torch.pi * 200 * torch.arange(round(seconds * RATE)) / RATE)


def quiet(seconds: float) -> Tensor:
    return torch.zeros(round(seconds * RATE))


def clip(audio: Tensor, text: str = "one two", lead: Tensor | None = None) -> RewardInput:
    return RewardInput(audio=audio, sample_rate=RATE, text=text, prompt_audio=lead)


def test_speech_rate_counts_letters_a_second_and_falls_as_the_ratio_to_the_nearer_bound():
    """Use six letters in 1 s, 3 s and 0.1 s: 6, 2 and 60 per second."""
    scores = SpeechRate(low=4.0, high=12.0).score([clip(tone(s), "One, two!") for s in (1.0, 3.0, 0.1)])
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.5, 0.2]))


def test_a_prompt_of_the_same_clip_takes_its_part_of_the_text():
    """Use six letters in 0.25 + 0.75 s."""
    scores = SpeechRate(low=6.0, high=6.0).score([clip(tone(0.25), lead=tone(0.75))])
    torch.testing.assert_close(scores, torch.ones(1))


def test_monotone_speech_and_clicks_are_scored_as_the_ratio_to_what_is_allowed():
    """Use a voice without any spread, noise, which has none, and two wrong samples in one second."""
    assert F0Spread(low=1.5).score([clip(tone(1))]) < 0.1
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    assert F0Spread().score([clip(0.1 * noise)]).isnan()
    wrong = tone(1)
    wrong[[2000, 5000]] += 0.5
    assert Clicks(most=1.0).score([clip(tone(1)), clip(wrong)]).tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match=r"f0_spread: low=0\.0 must be above 0 semitones"):
        F0Spread(low=0.0)
    with pytest.raises(ValueError, match=r"clicks: most=0\.0 must be above 0 per second"):
        Clicks(most=0.0)


def test_a_text_without_letters_has_no_rate():
    torch.testing.assert_close(SpeechRate().score([clip(tone(1), "...")]), torch.tensor([nan]), equal_nan=True)


@pytest.mark.parametrize(
    "audio, seconds",
    [
        (tone(1.0), 0.0),
        (torch.cat([tone(0.4), quiet(0.3), tone(0.4)]), 0.3),
        (torch.cat([quiet(0.5), tone(0.4), quiet(0.3)]), 0.5),
        (torch.cat([tone(0.4), quiet(0.2), tone(0.4), quiet(0.7)]), 0.7),
        (torch.cat([tone(0.4), tone(0.3, level=0.004), tone(0.4)]), 0.3),  # 42 dB below the loudest window
        (torch.cat([tone(0.4), tone(0.3, level=0.006), tone(0.4)]), 0.0),  # 38 dB below the loudest window
    ],
)
def test_the_longest_silence_is_found_wherever_it_is(audio: Tensor, seconds: float):
    assert longest_silence(audio, RATE) == pytest.approx(seconds)


def test_long_silence_falls_as_the_tolerance_over_the_length():
    clips = [clip(torch.cat([tone(0.4), quiet(s), tone(0.4)])) for s in (0.3, 0.6, 1.2)]
    torch.testing.assert_close(LongSilence(most_s=0.6).score(clips), torch.tensor([1.0, 1.0, 0.5]))


def test_clipping_counts_samples_at_full_scale_on_both_sides():
    """Clip 2, 10 and 900 of 1000 samples."""
    soft, hard, ruined = torch.full((3, 1000), 0.5)
    soft[[10, 20]] = torch.tensor([1.0, -1.2])
    hard[:10] = -1.0
    ruined[:900] = 2.0
    scores = Clipping(worst=0.01).score([clip(torch.full((1000,), 0.5)), clip(soft), clip(hard), clip(ruined)])
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.8, 0.0, 0.0]))


def test_the_loss_of_clipping_is_the_mean_excess_over_full_scale():
    """Exceed full scale, 0.999, by 0.001 and 0.201 in two of 1000 samples: a mean of 0.000202, of 0.01 allowed."""
    soft = torch.full((1000,), 0.5)
    soft[[10, 20]] = torch.tensor([1.0, -1.2])
    losses = Clipping(worst=0.01).loss([clip(soft), clip(torch.full((1000,), 0.5)), clip(quiet(1.0))])
    torch.testing.assert_close(losses, torch.tensor([0.0202, 0.0, nan]), equal_nan=True)


def test_the_gradient_of_clipping_agrees_with_finite_differences_and_lowers_clipped_samples_alone():
    audio = torch.linspace(-1.5, 1.5, 1000)
    assert relative_error(lambda wave: Clipping().loss([clip(wave)])[0], audio) < 1e-3
    audio.requires_grad_()
    Clipping().loss([clip(audio)]).sum().backward()
    assert audio.grad is not None
    torch.testing.assert_close(audio.grad, audio.detach().sign() * (audio.abs() > 0.999) / 1000 / 0.01)


def test_only_clipping_has_a_gradient():
    guards = (SpeechRate(), LongSilence(), Clipping())
    assert [isinstance(guard, DifferentiableReward) for guard in guards] == [False, False, True]


@pytest.mark.parametrize("guard", [SpeechRate(), LongSilence(), Clipping()], ids=lambda guard: type(guard).__name__)
@pytest.mark.parametrize("audio", [torch.zeros(0), quiet(1.0), torch.full((8000,), nan), tone(0.05)])
def test_a_clip_without_sound_gets_zero(guard, audio):
    assert guard.score([clip(audio)]).tolist() == [0.0]


def test_guards_are_providers_by_name_and_wrong_settings_are_named():
    entries = [ProviderConfig(name=name) for name in ("speech_rate", "long_silence", "clipping")]
    assert [provider.component for provider in build_providers(entries).values()] == ["ok"] * 3
    with pytest.raises(ValueError, match=r"speech_rate: low=5.0, high=1.0 must be above 0"):
        build_providers([ProviderConfig(name="speech_rate", config={"low": 5.0, "high": 1.0})])
    with pytest.raises(ValueError, match=r"long_silence: most_s=0.0"):
        build_providers([ProviderConfig(name="long_silence", config={"most_s": 0.0})])
    with pytest.raises(ValueError, match=r"clipping: worst=2.0"):
        build_providers([ProviderConfig(name="clipping", config={"worst": 2.0})])
