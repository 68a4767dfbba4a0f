"""An audio file -> one mono waveform at the rate the model wants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.data.resample import resample

SHORTEST_S = 0.1  # below this there is no speech, and not enough samples for a mel frame


def load_audio(path: str | Path, sample_rate: int) -> Float[Tensor, " nw"]:
    """A file's mean over channels, about [-1, 1], resampled to `sample_rate` (Hz).

    Audio that nothing can be learnt from (shorter than 0.1 s, silent, not finite) is a ValueError that names the file.
    """
    samples, file_rate = read_samples(Path(path))
    check_samples(samples, file_rate, path)
    return resample(torch.from_numpy(samples), file_rate, sample_rate)


def read_samples(path: Path) -> tuple[np.ndarray, int]:
    """Float32 samples, channels averaged, and the file's own rate in Hz."""
    if not path.is_file():
        raise FileNotFoundError(f"no audio file at {path}")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name that ends in .raw says nothing of rates
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise ValueError(f"cannot read {path} as audio: {reason}; make it a WAV, FLAC, OGG or MP3 file") from error
    return samples.mean(axis=1), rate


def check_samples(samples: np.ndarray, rate: int, path: str | Path) -> None:
    """ValueError that names the file, for a recording nothing can be learnt from."""
    duration_s = len(samples) / rate
    if duration_s < SHORTEST_S:
        raise ValueError(f"{path} lasts {duration_s:.4f} s; at least {SHORTEST_S} s of audio is needed")
    num_broken = int((~np.isfinite(samples)).sum())
    if num_broken:
        raise ValueError(f"{path} holds {num_broken} samples that are NaN or infinite, of {len(samples)}")
    if not samples.any():
        raise ValueError(f"{path} is silent: all {len(samples)} samples are zero")
