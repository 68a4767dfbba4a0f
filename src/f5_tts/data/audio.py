"""An audio file -> one mono waveform at the rate the model wants."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.data.resample import resample
from f5_tts.files import replace_file

SHORTEST_S = 0.1  # below this there is no speech, and not enough samples for a mel frame
HOUR_S = 3600.0  # more than any use for a recording takes
RATES = (1_000, 384_000)  # Hz; another is a damaged header, and to resample from it might take any memory
LOUDEST = 2.0**31  # a sample as large as integers of 32 bits; beyond is no sound, and its power no float32
BLOCK = 2**18  # frames read at once: a header may claim any number


class BadAudio(ValueError):
    """A recording that nothing can be learnt from."""

    kind = "bad"


class MissingAudio(BadAudio, FileNotFoundError):
    kind = "missing"


class UnreadableAudio(BadAudio):
    kind = "unreadable"


class ShortAudio(BadAudio):
    kind = "too short"


class LongAudio(BadAudio):
    kind = "too long"


class BrokenAudio(BadAudio):
    kind = "not finite"


class SilentAudio(BadAudio):
    kind = "silent"


@dataclass(frozen=True, slots=True)
class StoredClip:
    """A recording inside the files of a data set, encoded as it was; read from there each time."""

    table: Any  # of the `datasets` library, with one column of audio that is not decoded
    index: int

    def __str__(self) -> str:
        return f"the audio of row {self.index}"

    def file(self) -> BytesIO | Path:
        """Its bytes, or the file that the data set names."""
        (found,) = self.table[self.index].values()
        found = found or {}
        if found.get("bytes") is not None:
            return BytesIO(found["bytes"])
        if not found.get("path"):
            raise MissingAudio(f"{self} is empty")
        return Path(found["path"])


Source = str | Path | StoredClip


def load_audio(source: Source, sample_rate: int, longest_s: float = HOUR_S) -> Float[Tensor, " nw"]:
    """A file's mean over channels, about [-1, 1], resampled to `sample_rate` (Hz).

    Audio that nothing can be learnt from (missing, unreadable, shorter than 0.1 s or longer than `longest_s`, silent,
    not finite) is a BadAudio that names the file.
    """
    samples, file_rate = read_samples(source, longest_s)
    check_samples(samples, file_rate, source)
    return resample(torch.from_numpy(samples), file_rate, sample_rate)


def read_samples(source: Source, longest_s: float = HOUR_S) -> tuple[np.ndarray, int]:
    """Float32 samples, channels averaged, and the file's own rate in Hz."""
    file = source.file() if isinstance(source, StoredClip) else Path(source)
    if isinstance(file, Path) and not is_there(file):
        raise MissingAudio(f"no audio file at {file}")
    try:
        with soundfile.SoundFile(file) as sound:
            check_header(sound, source, longest_s)
            rate, blocks = sound.samplerate, [np.zeros(0, np.float32)]
            while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name that ends in .raw says nothing of rates
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        advice = "make it a WAV, FLAC, OGG or MP3 file"
        raise UnreadableAudio(f"cannot read {source} as audio: {reason}; {advice}") from error
    return np.concatenate(blocks), rate


def is_there(file: Path) -> bool:
    """Whether it is a file; one whose name no system takes is none."""
    try:
        return file.is_file()
    except (OSError, ValueError):
        return False


def check_header(sound: soundfile.SoundFile, source: Source, longest_s: float) -> None:
    """BadAudio for a recording that its header says is too long, or at no rate that recordings have."""
    if not RATES[0] <= sound.samplerate <= RATES[1]:
        raise UnreadableAudio(f"{source} says that it has {sound.samplerate} samples a second: its header is damaged")
    seconds = sound.frames / sound.samplerate
    if seconds > longest_s:
        limit = f"datasets.max_seconds={longest_s:g}"
        raise LongAudio(f"{source} lasts {seconds:.1f} s, longer than {limit}: cut it, or raise that")


def check_samples(samples: np.ndarray, rate: int, source: Source) -> None:
    """BadAudio that names the file, for a recording nothing can be learnt from."""
    duration_s = len(samples) / rate
    if duration_s < SHORTEST_S:
        raise ShortAudio(f"{source} lasts {duration_s:.4f} s; at least {SHORTEST_S} s of audio is needed")
    num_broken = int((~np.isfinite(samples)).sum())
    if num_broken:
        raise BrokenAudio(f"{source} holds {num_broken} samples that are NaN or infinite, of {len(samples)}")
    if np.abs(samples).max() > LOUDEST:
        raise BrokenAudio(f"{source} holds samples of {np.abs(samples).max():.3g}; full scale is 1")
    if not samples.any():
        raise SilentAudio(f"{source} is silent: all {len(samples)} samples are zero")


def write_wav(path: str | Path, audio: Float[Tensor, " nw"], sample_rate: int) -> None:
    """A 16-bit mono WAV; samples beyond [-1, 1] are clipped."""
    samples = audio.detach().cpu().clamp(-1, 1).numpy()
    replace_file(Path(path), lambda part: soundfile.write(part, samples, sample_rate, subtype="PCM_16", format="WAV"))
