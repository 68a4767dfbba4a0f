from __future__ import annotations

import math

import torch

from f5_tts.rewards.speaker.fbank import kaldi_fbank, mel_bands


def test_the_filter_bank_is_kaldis(tensors):
    """Compare with torchaudio's output in single precision.

    Logs of bands with little power differ by rounding, within 1e-3.
    """
    golden = tensors("g5_audio")
    result = kaldi_fbank(golden["wave16k"].flatten())
    torch.testing.assert_close(result, golden["kaldi_fbank80"], atol=1e-3, rtol=0)
    assert (result - golden["kaldi_fbank80"]).abs().median() < 2e-5


def test_a_louder_waveform_is_louder_in_every_band_by_the_same(tensors):
    wave = tensors("g5_audio")["wave16k"].flatten() * 100
    shift = kaldi_fbank(10 * wave) - kaldi_fbank(wave)
    torch.testing.assert_close(shift, torch.full_like(shift, 2 * math.log(10)), atol=1e-3, rtol=0)


def test_a_sine_is_in_the_band_that_holds_its_frequency():
    wave = 1000 * torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000)
    bands = kaldi_fbank(wave).mean(dim=0)
    assert bands.argmax() == mel_bands(80)[32].argmax()  # bin 32 of 512 at 16 kHz is 1000 Hz
