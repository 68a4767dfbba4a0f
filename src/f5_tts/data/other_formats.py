"""Decoding of sounds that libsndfile does not read, such as m4a and aac, by PyAV (extra m4a)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from f5_tts.extras import install_hint

SUFFIXES = (".m4a", ".aac", ".mp4", ".m4b", ".wma", ".webm", ".mka", ".mkv", ".amr", ".3gp", ".ac3")


def is_other_sound(path: Path) -> bool:
    """Check by the file extension whether this is a sound that libsndfile does not read."""
    return path.suffix.lower() in SUFFIXES


def is_decoder_installed() -> bool:
    """Check whether PyAV is installed."""
    return find_spec("av") is not None


def advice(path: Path) -> str:
    """Return what to do where a sound cannot be read without PyAV."""
    command = f"ffmpeg -i {path.name} {path.stem}.wav"
    return f"{path.suffix} is not read without PyAV: {install_hint('av')}, or make it a WAV file ({command})"


def decode(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    """Decode a sound: float32 samples, channels averaged, and its sample rate in Hz; a little beyond `max_seconds`.

    Raises ImportError without PyAV, and ValueError for a file without sound or that cannot be decoded.
    """
    if not is_decoder_installed():
        raise ImportError(advice(path))
    import av
    from av.error import FFmpegError

    blocks, num, rate = [np.zeros(0, np.float32)], 0, 1
    try:
        with av.open(str(path)) as container:
            resampler = av.AudioResampler(format="fltp")
            for frame in container.decode(container.streams.audio[0]):
                rate = frame.sample_rate
                blocks += [part.to_ndarray().mean(axis=0) for part in resampler.resample(frame)]
                num += frame.samples
                if num > max_seconds * rate:
                    break
    except (FFmpegError, IndexError, ValueError) as error:
        raise ValueError(f"cannot read {path} as audio: {error}; make it a WAV file") from error
    return np.concatenate(blocks).astype(np.float32), rate
