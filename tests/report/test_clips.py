from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from tests.report.folders import tone

from f5_tts.report.clips import ROWS, Clip, gray_png


def content(uri: str, mime_type: str) -> io.BytesIO:
    kind, _, data = uri.partition(";base64,")
    assert kind == f"data:{mime_type}"
    return io.BytesIO(base64.b64decode(data))


def pixels(data: io.BytesIO) -> np.ndarray:
    """Read a gray picture; 1 is white."""
    return np.asarray(Image.open(data).convert("L")) / 255


def test_lossless_audio_has_the_samples_of_the_file(tmp_path: Path):
    path = tone(tmp_path / "a.wav", 440, seconds=0.8)
    found, rate = soundfile.read(content(Clip.read(path).audio("FLAC"), "audio/flac"))
    assert rate == 16_000 and np.array_equal(found, soundfile.read(path)[0])


def test_very_short_clips_are_wav_because_browsers_cannot_seek_in_one_block_of_flac(tmp_path: Path):
    path = tone(tmp_path / "a.wav", 440, seconds=0.7)
    found, _ = soundfile.read(content(Clip.read(path).audio("FLAC"), "audio/wav"))
    assert np.array_equal(found, soundfile.read(path)[0])


def test_compressed_audio_is_smaller_and_as_long(tmp_path: Path):
    clip = Clip.read(tone(tmp_path / "a.wav", 440, seconds=2))
    found, rate = soundfile.read(content(clip.audio("MP3"), "audio/mpeg"))
    assert len(clip.audio("MP3")) < 32_000 and rate == 16_000  # 64,000 bytes as WAV
    assert abs(len(found) / rate - 2) < 0.15


@pytest.mark.parametrize("hertz", [1000, 4000])
def test_a_tone_is_dark_at_its_frequency_in_the_picture(tmp_path: Path, hertz: int):
    clip = Clip.read(tone(tmp_path / "a.wav", hertz, seconds=0.5))
    picture = pixels(content(clip.spectrogram(), "image/png"))
    darkest = picture.mean(axis=1).argmin()
    assert len(picture) == ROWS and abs((ROWS - 1 - darkest) - hertz / 8000 * (ROWS - 1)) <= 1
    assert picture[0].mean() > 0.9  # nothing at 8 kHz


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.zeros(5, np.float32), np.zeros(4000, np.float32)])
def test_silence_and_very_short_clips_have_a_picture(samples: np.ndarray):
    picture = pixels(content(Clip(samples=samples, sample_rate=16_000).spectrogram(), "image/png"))
    assert picture.min() == 1


def test_an_image_of_16_levels_and_odd_width_is_read_as_it_is():
    levels = np.arange(15, dtype=np.uint8).reshape(3, 5)
    assert np.round(pixels(io.BytesIO(gray_png(levels))) * 15).astype(int).tolist() == levels.tolist()
