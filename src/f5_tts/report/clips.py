"""Clips inside a page: audio and spectrograms as data URIs."""

from __future__ import annotations

import io
import struct
import zlib
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

MIME_TYPES = {"FLAC": "audio/flac", "MP3": "audio/mpeg", "WAV": "audio/wav"}  # formats that all browsers play
MIN_SAMPLES = 3 * 4096  # in FLAC: Chromium cannot seek in a file of one or two blocks
HIGHEST = 8000  # Hz, in a spectrogram
WINDOW_S, FLOOR_DB = 0.032, -70.0
ROWS, MAX_COLUMNS = 96, 480  # pixels of a spectrogram


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """Recording or generated speech: mono samples at a rate in Hz."""

    samples: NDArray[np.float32]
    sample_rate: int

    @classmethod
    def read(cls, path: Path) -> Clip:
        """Read a file."""
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return cls(samples=samples.mean(axis=1), sample_rate=rate)

    def audio(self, container: str) -> str:
        """Return a data URI in FLAC or MP3; in WAV for a clip of fewer than MIN_SAMPLES."""
        file, used = io.BytesIO(), "WAV" if len(self.samples) < MIN_SAMPLES else container
        soundfile.write(file, self.samples.clip(-1, 1), self.sample_rate, format=used)
        return data_uri(MIME_TYPES[used], file.getvalue())

    def spectrogram(self) -> str:
        """Return a data URI of a gray picture: time from left to right, 0 to 8 kHz from bottom to top, loud is dark."""
        levels = np.clip(1 - self.decibels() / FLOOR_DB, 0, 1)[::-1]
        return data_uri("image/png", gray_png(np.round(15 * (1 - levels)).astype(np.uint8)))

    def decibels(self) -> NDArray[np.float64]:
        """Return levels relative to the loudest, by frequency (ROWS) and time, not below FLOOR_DB."""
        size = round(WINDOW_S * self.sample_rate)
        padded = np.pad(self.samples.astype(float), size // 2)
        count = max(1, min(MAX_COLUMNS, round(len(self.samples) / size * 4)))
        starts = np.linspace(0, max(0, len(padded) - size), count).astype(int)
        frames = np.stack([np.resize(padded[start : start + size], size) for start in starts]) * np.hanning(size)
        power = np.abs(np.fft.rfft(frames)).T ** 2
        bins = np.linspace(0, min(HIGHEST, self.sample_rate / 2) * size / self.sample_rate, ROWS).round().astype(int)
        loudest = power.max() or 1.0
        return np.maximum(10 * np.log10(power[bins] / loudest + 1e-12), FLOOR_DB)


def gray_png(levels: NDArray[np.uint8]) -> bytes:
    """Encode levels from 0 (black) to 15 (white) as a PNG image of 4 bits per pixel (ISO/IEC 15948)."""
    height, width = levels.shape
    even = np.pad(levels, ((0, 0), (0, width % 2)))
    lines = b"".join(b"\0" + line.tobytes() for line in (even[:, ::2] << 4 | even[:, 1::2]))
    header = struct.pack(">IIBBBBB", width, height, 4, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def data_uri(mime_type: str, data: bytes) -> str:
    """Return data as a URI, which needs no file beside the page."""
    return f"data:{mime_type};base64,{b64encode(data).decode()}"
