from __future__ import annotations

from math import inf, nan, pi

import pytest
import torch

from f5_tts.rewards.audio import shared_rate, to_16k_mono, usable_indices
from f5_tts.types import RewardInput


def test_clips_that_hold_no_sound_are_left_out_with_a_warning():
    good = torch.full((1600,), 0.1)
    broken = [torch.zeros(0), good[:-1], torch.zeros(1600), good * nan, good * inf]
    with pytest.warns(UserWarning, match="silent, not finite or shorter than 0.1 s"):
        assert usable_indices([broken[0], good, *broken[1:], good], 16_000) == [1, 6]


def test_a_24_khz_sine_becomes_the_16_khz_sine_within_1e_3():
    def sine(rate: int) -> torch.Tensor:
        return 0.5 * torch.sin(2 * pi * 440 / rate * torch.arange(rate // 2))

    transcripts = to_16k_mono(sine(24_000), 24_000)
    assert transcripts.shape == (8000,)
    inner = slice(200, -200)  # the resampler rings where the sine begins and ends
    torch.testing.assert_close(transcripts[inner], sine(16_000)[inner], atol=1e-3, rtol=0)


def test_samples_beyond_full_scale_are_cut_off():
    assert to_16k_mono(torch.tensor([1e30, -2.0, 0.5]), 16_000).tolist() == [1.0, -1.0, 0.5]


def test_inputs_of_two_sample_rates_are_refused():
    inputs = [RewardInput(audio=torch.ones(10), sample_rate=rate, text="one") for rate in (24_000, 16_000)]
    with pytest.raises(ValueError, match=r"one sample rate at a time, got \[16000, 24000\] Hz"):
        shared_rate(inputs)
