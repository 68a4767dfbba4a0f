from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from f5_tts.data.audio import load_audio
from f5_tts.infer.reference import read_reference

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "data/mini_custom/wavs/test_00_test_prompt_1.flac"  # 16 kHz, says "seven two four"
RATE = 16_000


def deaf(wave: Tensor, sample_rate: int) -> str:
    raise AssertionError("nothing was to be heard")


def noise(seconds: float, height: float = 0.3) -> np.ndarray:
    return (height * np.random.default_rng(0).uniform(-1, 1, round(seconds * RATE))).astype("float32")


def written(folder: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    path = folder / "voice.wav"
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


def test_a_recording_is_a_voice_with_its_text_and_loudness():
    voice = read_reference(CLIP, " seven two four ", RATE, deaf)
    whole = load_audio(CLIP, RATE)
    assert (voice.text, voice.sample_rate) == ("seven two four", RATE)
    assert 0.9 * len(whole) < len(voice.wave) <= len(whole)
    assert voice.seconds == len(voice.wave) / RATE
    assert voice.rms == pytest.approx(float(voice.wave.square().mean().sqrt()))


def test_any_rate_and_number_of_channels_is_taken(tmp_path: Path):
    stereo = np.stack([noise(1.0), np.zeros(RATE, "float32")], axis=1)
    voice = read_reference(written(tmp_path, stereo, 44_100), "a", RATE, deaf)
    assert voice.wave.shape == (round(RATE * RATE / 44_100),)


def test_silence_around_the_voice_is_left_out_but_for_50_ms(tmp_path: Path):
    samples = np.concatenate([np.zeros(RATE, "float32"), noise(1.0), np.zeros(RATE, "float32")])
    assert read_reference(written(tmp_path, samples), "a", RATE, deaf).seconds == pytest.approx(1.1, abs=0.02)


def test_a_long_recording_is_cut_at_a_pause_before_12_s_and_that_is_said(tmp_path: Path, capsys):
    samples = np.concatenate([noise(4.0), np.zeros(RATE // 2, "float32"), noise(5.0)])
    samples = np.concatenate([samples, np.zeros(RATE // 2, "float32"), noise(5.0)])
    voice = read_reference(written(tmp_path, samples), "a", RATE, deaf)
    assert 9.5 <= voice.seconds <= 10.0
    assert (
        f"{voice.seconds:.1f} s of its start are used, and ref_text must be the transcript of these alone"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("samples", "error"),
    [
        (noise(0.1), r"voice\.wav holds 0\.10 s of sound; a reference needs 0\.3 s"),
        (noise(0.05), r"voice\.wav lasts 0\.0500 s; at least 0\.1 s"),
        (np.zeros(RATE, "float32"), r"voice\.wav is silent"),
        (noise(1.0, 1e-4), r"voice\.wav is nearly silent: its loudest part has -8\d dB"),
    ],
)
def test_a_recording_without_a_voice_is_refused_in_a_sentence(tmp_path: Path, samples: np.ndarray, error: str):
    with pytest.raises(ValueError, match=error):
        read_reference(written(tmp_path, samples), "a", RATE, deaf)


def test_a_recording_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no audio file at .*gone\.wav"):
        read_reference(tmp_path / "gone.wav", "a", RATE, deaf)


def test_without_a_text_the_trimmed_recording_is_heard_and_what_was_heard_is_said(capsys):
    transcripts: list[tuple[Tensor, int]] = []

    def hear(wave: Tensor, sample_rate: int) -> str:
        transcripts.append((wave, sample_rate))
        return " Seven, two four. "

    voice = read_reference(CLIP, "  ", RATE, hear)
    assert voice.text == "Seven, two four."
    assert [rate for _, rate in transcripts] == [RATE] and torch.equal(transcripts[0][0], voice.wave)
    assert "test_00_test_prompt_1.flac says: Seven, two four." in capsys.readouterr().out


def test_nothing_to_hear_with_and_nothing_heard_ask_for_the_text():
    def missing(wave: Tensor, sample_rate: int) -> str:
        raise ImportError('Whisper needs faster-whisper; type: pip install -e ".[eval]"')

    with pytest.raises(ImportError, match=r"has no ref_text, and .*\.\[eval\].*; or give its text as ref_text"):
        read_reference(CLIP, "", RATE, missing)
    with pytest.raises(ValueError, match=r"no words were recognized in .*: give its text as ref_text"):
        read_reference(CLIP, "", RATE, lambda wave, sample_rate: " ")
