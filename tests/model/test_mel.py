from __future__ import annotations

from dataclasses import replace
from math import floor, log, log10, pi
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import BIGVGAN_MEL as BIGVGAN
from tests.tiny import MINI_MEL as MINI
from tests.tiny import PUBLISHED_MEL as PUBLISHED
from torch import Tensor, nn

from f5_tts.model.mel import LogMel, frames_in, mel_filters


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    """Read two seconds of speech and the log-mels of published F5-TTS models, for each of its vocoders."""
    return load_file(Path(__file__).parents[1] / "goldens" / "g5_audio.safetensors")


@pytest.mark.parametrize("spec", [PUBLISHED, BIGVGAN], ids=["vocos", "bigvgan"])
def test_the_mel_of_speech_equals_the_published_models_within_1e_5_nepers(spec, golden):
    """Allow each band two roundings of its frame's loudest band beside: Fourier transforms differ by processor."""
    mel = LogMel(spec)(golden["wave24k"].reshape(1, -1))
    expected = golden[f"mel_{spec.mel_spec_type}"].transpose(1, 2)
    level = expected.exp()
    rounding = 2 * torch.finfo(torch.float32).eps * level.amax(dim=2, keepdim=True)
    assert ((mel.exp() - level).abs() <= 1e-5 * level + rounding).all()


def test_the_filter_bank_equals_the_published_one_within_1e_6(golden):
    torch.testing.assert_close(mel_filters(PUBLISHED), golden["fbank_htk_513x100"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("spec", [PUBLISHED, MINI], ids=["24 kHz", "16 kHz"])
def test_a_440_hz_sine_peaks_in_the_filter_whose_centre_is_nearest_in_mel(spec):
    def mel(hz: float) -> float:
        return 2595 * log10(1 + hz / 700)

    spacing = mel(spec.target_sample_rate / 2) / (spec.n_mel_channels + 1)
    nearest = floor(mel(440) / spacing + 0.5) - 1  # filter k is centered on corner k + 1
    wave = torch.sin(2 * pi * 440 / spec.target_sample_rate * torch.arange(spec.target_sample_rate))
    peaks = LogMel(spec)(wave[None])[0, 5:-5].argmax(dim=1)
    assert peaks.unique().tolist() == [nearest]


def test_silence_is_the_log_of_the_floor_and_a_frame_comes_every_hop():
    mel = LogMel(MINI)(torch.zeros(2, 10 * MINI.hop_length + 7))
    torch.testing.assert_close(mel, torch.full((2, 11, 100), log(1e-5)))


@pytest.mark.parametrize("rate", [16000, 24000])
def test_each_bigvgan_filter_has_area_one(rate):
    # high resolution, so that a sum of bins approximates an area
    fine = replace(BIGVGAN, target_sample_rate=rate, n_fft=2**15)
    torch.testing.assert_close(mel_filters(fine).sum(dim=0) * rate / fine.n_fft, torch.ones(100), atol=1e-2, rtol=0)


def test_a_bigvgan_frame_stands_for_a_whole_hop_and_hears_its_middle():
    wave = torch.zeros(10 * BIGVGAN.hop_length + 7)
    assert LogMel(BIGVGAN)(wave[None]).shape == (1, 10, 100)
    wave[5 * BIGVGAN.hop_length + BIGVGAN.hop_length // 2] = 1.0
    assert LogMel(BIGVGAN)(wave[None])[0].sum(dim=1).argmax() == 5


@pytest.mark.parametrize("spec", [PUBLISHED, BIGVGAN, MINI], ids=["vocos", "bigvgan", "16 kHz"])
@pytest.mark.parametrize("samples", [25600, 25699])
def test_the_frames_of_a_duration_are_those_of_its_mel(spec, samples):
    wave = torch.zeros(1, samples)
    assert frames_in(samples / spec.target_sample_rate, spec) == LogMel(spec)(wave).shape[1]


def test_one_second_of_the_16_khz_mel_is_fifty_frames():
    assert MINI.frames_per_second == 50.0


def test_a_model_that_holds_a_log_mel_gets_no_state_dict_keys_from_it():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_mel = LogMel(MINI)

    assert list(Model().state_dict()) == []


@pytest.mark.parametrize(("spec", "needed"), [(PUBLISHED, 513), (BIGVGAN, 385)], ids=["vocos", "bigvgan"])
def test_a_waveform_too_short_to_mirror_is_refused_with_its_length(spec, needed):
    assert LogMel(spec)(torch.zeros(1, needed)).shape[1] > 0
    with pytest.raises(ValueError, match=f"{needed - 1} samples is too short; mel frames need {needed}"):
        LogMel(spec)(torch.zeros(1, needed - 1))
