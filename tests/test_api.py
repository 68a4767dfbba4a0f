"""Python interface with the shipped base model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from f5_tts.api import F5TTS
from f5_tts.infer import silence

ROOT = Path(__file__).parents[1]
BASE = str(ROOT / "pretrained/F5TTS_Mini/model_800.safetensors")
VOICE = (ROOT / "data/mini_custom/wavs/test_00_test_prompt_1.flac", "seven two four")
HOP = 320


@pytest.fixture(scope="module")
def tts() -> F5TTS:
    return F5TTS("F5TTS_Mini", BASE, device="cpu")


def test_speech_is_a_waveform_its_rate_and_its_mel(tts: F5TTS, tmp_path: Path):
    wave, rate, mel = tts.infer(*VOICE, "nine four eight", seed=1, file_wave=tmp_path / "a.wav")
    assert (wave.dtype, mel.dtype, rate, tts.target_sample_rate) == (np.float32, np.float32, 16_000, 16_000)
    assert mel.shape == (100, len(wave) // HOP + 1)  # the waveform ends at the center of the last frame
    saved, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_allclose(saved, wave.clip(-1, 1), atol=1 / 2**15)


def test_a_list_of_texts_gives_lists_and_text_i_is_that_of_seed_plus_i(tts: F5TTS):
    waves, _, mels = tts.infer(*VOICE, ["nine four eight", "one two three", "one two three"], seed=1)
    assert len(waves) == len(mels) == 3
    _, _, alone = tts.infer(*VOICE, "one two three", seed=2)
    np.testing.assert_allclose(mels[1], alone, atol=1e-5)
    assert np.abs(mels[1] - mels[2]).mean() > 0.05


def test_without_a_seed_each_call_is_another_take_and_its_seed_is_kept(tts: F5TTS):
    first = tts.infer(*VOICE, "nine four eight")[2]
    seed = tts.seed
    assert np.abs(first - tts.infer(*VOICE, "nine four eight")[2]).mean() > 0.05
    np.testing.assert_array_equal(first, tts.infer(*VOICE, "nine four eight", seed=seed)[2])


def test_values_that_are_given_hold_for_one_call(tts: F5TTS):
    usual = tts.infer(*VOICE, "nine four eight", seed=1)[2]
    slow = tts.infer(*VOICE, "nine four eight", seed=1, speed=0.5, nfe_step=2, cfg_strength=0.0, target_rms=0.2)[2]
    assert slow.shape[1] == pytest.approx(2 * usual.shape[1], abs=1)
    np.testing.assert_array_equal(usual, tts.infer(*VOICE, "nine four eight", seed=1)[2])


def test_mistakes_get_a_sentence(tts: F5TTS, tmp_path: Path):
    with pytest.raises(ValueError, match=r"infer\.nfe_step=0 is not allowed; allowed: a whole number, 1 or more"):
        tts.infer(*VOICE, "one", nfe_step=0)
    with pytest.raises(ValueError, match=r"file_wave=.*a\.wav takes one text, got a list of 2"):
        tts.infer(*VOICE, ["one", "two"], file_wave=tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"gen_text is empty"):
        tts.infer(*VOICE, "")
    with pytest.raises(ValueError, match=r"infer\.ode_method=rk4 is not allowed; allowed: euler or midpoint"):
        F5TTS("F5TTS_Mini", BASE, ode_method="rk4")


def test_a_recording_is_transcribed(tts: F5TTS):
    assert tts.transcribe(VOICE[0]).strip(".") in ("724", "7, 2, 4", "Seven two four")


def test_pauses_are_shortened_and_paths_are_taken(monkeypatch):
    monkeypatch.setattr(silence, "MAX_PAUSE_S", 0.02)  # shorter than the pauses between words
    tts = F5TTS("F5TTS_Mini", Path(BASE), device="cpu")
    waves = [tts.infer(*VOICE, "nine four eight", seed=1, remove_silence=switch)[0] for switch in (False, True)]
    assert 0.2 * len(waves[0]) < len(waves[1]) < len(waves[0])


def test_a_vocoder_of_ones_own_is_refused_where_the_config_names_another_kind(tmp_path: Path):
    with pytest.raises(ValueError, match="is for vocos alone"):
        F5TTS("F5TTS_Mini", BASE, vocoder_local_path=str(tmp_path))
