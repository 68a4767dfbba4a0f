"""Spectral statistics of clips that differ by one thing, whose distance is arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.rewards.gradients import relative_error
from tests.tiny import MINI_MEL
from torch import Tensor

from f5_tts.config.schema import ProviderConfig
from f5_tts.model.mel import LogMel
from f5_tts.rewards.registry import build_providers
from f5_tts.rewards.spectral_match import SpectralMatch
from f5_tts.types import DifferentiableReward, RewardInput

RATE = MINI_MEL.target_sample_rate


def noise(seconds: float = 0.5, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def clip(audio: Tensor, reference_audio: Tensor | None, **more: Any) -> RewardInput:
    return RewardInput(audio=audio, sample_rate=RATE, text="one", reference_audio=reference_audio, **more)


def heard(mel: Tensor, reference: Tensor | None) -> RewardInput:
    """Return the input of a loss."""
    return clip(torch.zeros(0), reference, mel=mel, mel_spec=MINI_MEL)


def mel_of(wave: Tensor) -> Tensor:
    return LogMel(MINI_MEL)(wave[None])[0]


def losses(changed: Sequence[Tensor]) -> Tensor:
    return SpectralMatch().loss([heard(mel, noise()) for mel in changed])


def test_the_loss_counts_level_and_contrast_of_each_band():
    """Raise all bands by 0.4, which changes one of four statistics; spread them twice as far, which changes three."""
    mel = mel_of(noise())
    middle = mel.mean(dim=0)
    expected = torch.tensor([0.0, 0.4**2 / 4, math.log(2) ** 2 * 3 / 4])
    found = losses([mel, mel + 0.4, middle + 2 * (mel - middle)])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0.02)  # MIN_VARIANCE lowers the third


def test_a_smooth_spectrum_is_worse_the_smoother_it_is():
    mel = mel_of(noise())
    smooth = [mel]
    for _ in range(2):
        last = smooth[-1]
        smooth.append((last.roll(1, 1) + 2 * last + last.roll(-1, 1)) / 4)
    first, second, third = losses(smooth).tolist()
    assert first < 1e-9 and 0.01 < second < third


def test_the_gradient_agrees_with_finite_differences():
    reward, reference = SpectralMatch(), noise()
    mel = mel_of(noise(0.3, seed=1))
    assert relative_error(lambda point: reward.loss([heard(point, reference)])[0], mel) < 1e-3


def test_the_score_falls_with_the_distance_and_is_1_for_the_same_clip():
    """Halve the amplitude, which lowers all bands by ln 2."""
    wave = noise()
    inputs = [clip(audio, wave) for audio in (wave, wave / 2)]
    expected = torch.tensor([1.0, math.exp(-(math.log(2) ** 2) / 4)])
    torch.testing.assert_close(SpectralMatch().score(inputs), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("reference", [None, torch.zeros(RATE), torch.full((RATE,), math.nan), noise(0.05)])
def test_a_clip_without_a_usable_reference_gets_neither_score_nor_gradient(reference: Tensor | None):
    reward, mel = SpectralMatch(), mel_of(noise()).requires_grad_()
    assert reward.score([clip(noise(), reference)]).isnan().all()
    loss = reward.loss([heard(mel, reference), heard(mel, noise(seed=2))])
    assert loss.isnan().tolist() == [True, False]
    (gradient,) = torch.autograd.grad(loss[1], mel)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_a_clip_that_is_not_finite_is_left_out():
    broken = mel_of(noise()).index_fill(0, torch.tensor([3]), math.inf)
    assert losses([broken, mel_of(noise())]).isnan().tolist() == [True, False]
    assert SpectralMatch().score([clip(torch.zeros(RATE), noise())]).isnan().all()


def test_it_is_a_reward_by_name_that_offers_its_gradient():
    (reward,) = build_providers([ProviderConfig(name="spectral_match")]).values()
    assert isinstance(reward, DifferentiableReward) and reward.takes == "mel"
