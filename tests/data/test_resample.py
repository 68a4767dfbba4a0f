from __future__ import annotations

import pytest
import torch

from f5_tts.data.resample import resample


@pytest.mark.parametrize(
    "rates", ["8000_24000", "16000_24000", "22050_24000", "44100_24000", "48000_24000", "24000_16000"]
)
def test_a_waveform_is_resampled_as_published_models_hear_it(tensors, rates: str):
    golden = tensors("g5_audio")
    result = resample(golden["resample.in"].flatten(), *map(int, rates.split("_")))
    torch.testing.assert_close(result, golden[f"resample.{rates}"].flatten(), atol=2e-5, rtol=0)


def test_speech_is_too(tensors):
    golden = tensors("g5_audio")
    result = resample(golden["wave24k"].flatten(), 24_000, 16_000)
    torch.testing.assert_close(result, golden["wave16k"].flatten(), atol=2e-5, rtol=0)


def test_rates_with_nothing_in_common_need_no_more_memory_than_others():
    """Resample a sine from 44,101 to 24,000 Hz.

    These coprime rates need a filter for each of 24,000 phases. The sine must stay a sine away from its ends.
    """
    phase = 2 * torch.pi * 440 * torch.arange(44_101, dtype=torch.float64)
    result = resample((phase / 44_101).sin().float(), 44_101, 24_000)
    assert len(result) == 24_000
    inner = slice(200, -200)
    torch.testing.assert_close(result[inner], (phase[:24_000] / 24_000).sin().float()[inner], atol=2e-3, rtol=0)


def test_the_same_rate_is_the_same_waveform():
    wave = torch.randn(10, generator=torch.Generator().manual_seed(0))
    assert resample(wave, 8000, 8000) is wave


def test_no_sample_and_one_sample_may_be_resampled():
    assert len(resample(torch.zeros(0), 8000, 24_000)) == 0
    assert len(resample(torch.ones(1), 8000, 24_000)) == 3
