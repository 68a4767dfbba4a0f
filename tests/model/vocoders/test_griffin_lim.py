from __future__ import annotations

from math import log, pi

import pytest
import torch
from tests.tiny import BIGVGAN_MEL as BIGVGAN
from tests.tiny import MINI_MEL as MINI
from tests.tiny import PUBLISHED_MEL as PUBLISHED
from torch import Tensor

from f5_tts.config.schema import MelSpecConfig
from f5_tts.model.mel import LogMel
from f5_tts.model.vocoders.griffin_lim import GriffinLim

SPECS = pytest.mark.parametrize("spec", [MINI, PUBLISHED, BIGVGAN], ids=["16 kHz", "24 kHz", "bigvgan"])


def vowel(spec: MelSpecConfig, duration_s: float = 1.0, pitch: float = 120.0) -> Tensor:
    """Synthesize twenty harmonics of amplitude 1 / k with a gliding pitch, faded in and out."""
    time = torch.arange(int(duration_s * spec.target_sample_rate)) / spec.target_sample_rate
    phase = 2 * pi * pitch * (time + 0.1 * time**2)
    wave = sum((torch.sin(k * phase) / k for k in range(1, 21)), torch.zeros_like(phase))
    return 0.2 * wave * torch.sin(pi * time / duration_s)


def batch_of(mels: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.nn.utils.rnn.pad_sequence(mels, batch_first=True), torch.tensor([len(mel) for mel in mels])


def mels_of_three_vowels(spec: MelSpecConfig) -> list[Tensor]:
    log_mel = LogMel(spec)
    return [log_mel(vowel(spec, s, hz)[None])[0] for s, hz in ((0.4, 110.0), (1.0, 150.0), (0.7, 210.0))]


@SPECS
def test_the_mel_of_the_audio_is_the_mel_it_was_made_from_within_half_a_neper_on_average(spec):
    log_mel = LogMel(spec)
    mel = log_mel(vowel(spec)[None])
    (wave,) = GriffinLim(spec)(mel, torch.tensor([mel.shape[1]]))
    error = (log_mel(wave[None]) - mel).abs()[:, 2:-2]
    assert error.mean() < 0.5


def test_more_rounds_come_closer_to_the_mel():
    log_mel = LogMel(MINI)
    mel = log_mel(vowel(MINI)[None])

    def error(iterations: int) -> float:
        (wave,) = GriffinLim(MINI, iterations)(mel, torch.tensor([mel.shape[1]]))
        return (log_mel(wave[None]) - mel).abs().mean().item()

    assert error(32) < error(8) < error(1)


@pytest.mark.parametrize(("spec", "without"), [(MINI, 1), (PUBLISHED, 1), (BIGVGAN, 0)])
def test_an_item_has_a_hop_of_samples_for_every_frame_but_one_and_with_bigvgan_for_every_frame(spec, without):
    mel, lens = batch_of(mels_of_three_vowels(spec))
    waves = GriffinLim(spec, iterations=1)(mel, lens)
    assert [len(wave) for wave in waves] == [spec.hop_length * (n - without) for n in lens.tolist()]


@SPECS
def test_an_item_sounds_the_same_alone_and_in_a_batch_within_1e_4_of_full_scale(spec):
    mels = mels_of_three_vowels(spec)
    vocoder = GriffinLim(spec)
    together = vocoder(*batch_of(mels))
    for mel, wave in zip(mels, together, strict=True):
        (alone,) = vocoder(mel[None], torch.tensor([len(mel)]))
        torch.testing.assert_close(wave, alone, atol=1e-4, rtol=0)


def test_frames_past_the_length_are_not_read():
    mel, lens = batch_of(mels_of_three_vowels(MINI))
    other = mel.clone()
    other[0, lens[0] :] = torch.nan
    for wave, expected in zip(GriffinLim(MINI)(other, lens), GriffinLim(MINI)(mel, lens), strict=True):
        assert torch.equal(wave, expected)


@SPECS
def test_a_click_stays_where_the_mel_has_it(spec):
    wave = torch.zeros(16000)
    wave[8000] = 1.0
    mel = LogMel(spec)(wave[None])
    (made,) = GriffinLim(spec)(mel, torch.tensor([mel.shape[1]]))
    assert abs(made.abs().argmax().item() - 8000) < spec.hop_length / 4


def test_silence_stays_below_a_thousandth_of_full_scale():
    silent = torch.full((1, 50, 100), log(1e-5))
    (wave,) = GriffinLim(MINI)(silent, torch.tensor([50]))
    assert wave.abs().max() < 1e-3


def test_random_state_and_gradients_are_left_alone_and_two_calls_agree():
    mel, lens = batch_of(mels_of_three_vowels(MINI))
    before = torch.get_rng_state()
    first, second = (GriffinLim(MINI)(mel.requires_grad_(), lens) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(first, second, strict=True))


def test_a_mel_in_half_precision_gives_audio_in_single():
    mel, lens = batch_of(mels_of_three_vowels(MINI))
    assert all(wave.dtype == torch.float32 for wave in GriffinLim(MINI)(mel.bfloat16(), lens))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 100.0])
def test_a_mel_that_has_no_finite_audio_is_refused(value):
    mel, lens = batch_of(mels_of_three_vowels(MINI))
    mel[1, 3, 5] = value
    with pytest.raises(ValueError, match="cannot be converted to audio: it holds NaN, or values so high"):
        GriffinLim(MINI)(mel, lens)


def test_a_vocoder_adds_no_keys_to_a_state_dict():
    assert list(GriffinLim(MINI).state_dict()) == []
