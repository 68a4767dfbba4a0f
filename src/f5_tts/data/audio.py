"""Reading of audio files as mono waveforms at a given sample rate."""

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

from f5_tts.data.other_formats import decode, is_other_sound
from f5_tts.data.paths import describe_missing, exists
from f5_tts.data.resample import resample
from f5_tts.data.wav_size import states_length, wav_size
from f5_tts.files import write_atomically

MIN_SECONDS = 0.1  # shorter clips hold no speech and too few samples for a mel frame
MAX_SECONDS = 3600.0  # the default limit, longer than any use needs
# Hz; other rates mean a damaged header, and resampling from them may take unlimited memory
SAMPLE_RATE_RANGE = (1_000, 384_000)
LARGEST_FLOAT = 8.0  # of samples whose full scale is 1; larger ones of a float file are those of 16-bit integers
FULL_SCALE_16 = 2.0**15  # full scale of 16-bit integers
CANCELLED = 1e-3  # largest mean of channels that cancel out, as a part of the largest sample
MAX_MISSING_S = 0.1  # of a recording whose header says that it is longer
FRAMES_PER_READ = 2**18  # frames read at once, because a damaged header may claim any number


class BadAudio(ValueError):
    """A recording that cannot be used for training."""

    kind = "bad"


class MissingAudio(BadAudio, FileNotFoundError):
    """A recording whose file does not exist."""

    kind = "missing"


class UnreadableAudio(BadAudio):
    """A recording that cannot be decoded, or whose header is damaged."""

    kind = "unreadable"


class ShortAudio(BadAudio):
    """A recording that is shorter than the minimum."""

    kind = "too short"


class LongAudio(BadAudio):
    """A recording that is longer than the limit."""

    kind = "too long"


class NonFiniteAudio(BadAudio):
    """A recording with NaN, infinite or absurdly large samples."""

    kind = "not finite"


class PartialAudio(BadAudio):
    """A recording of which a part is missing: its header says that it is longer."""

    kind = "cut short"


class CancelledAudio(BadAudio):
    """A recording whose channels cancel out."""

    kind = "antiphase"


class SilentAudio(BadAudio):
    """A recording whose samples are all zero."""

    kind = "silent"


@dataclass(frozen=True, slots=True)
class EncodedAudio:
    """An encoded recording inside the files of a data set, read from there at each use."""

    table: Any  # a table of the `datasets` library with one audio column, which is not decoded
    index: int

    def __str__(self) -> str:
        return f"the audio of row {self.index}"

    def file(self) -> BytesIO | Path:
        """Return the encoded bytes, or the path that the data set names; raise MissingAudio if there is neither."""
        (cell,) = self.table[self.index].values()
        cell = cell or {}
        if cell.get("bytes") is not None:
            return BytesIO(cell["bytes"])
        if not cell.get("path"):
            raise MissingAudio(f"{self} is empty")
        return Path(cell["path"])


Source = str | Path | EncodedAudio


def load_audio(source: Source, sample_rate: int, max_seconds: float = MAX_SECONDS) -> Float[Tensor, " nw"]:
    """Read a file as the mean over its channels, about [-1, 1], resampled to `sample_rate` (Hz).

    Raises:
        BadAudio: the audio is missing, unreadable, shorter than 0.1 s, longer than `max_seconds`, silent or not finite;
            the message names the file.
    """
    wave, file_rate = load_at_own_rate(source, max_seconds)
    return resample(wave, file_rate, sample_rate)


def load_at_own_rate(source: Source, max_seconds: float = MAX_SECONDS) -> tuple[Float[Tensor, " nw"], int]:
    """Read a file as the mean over its channels, with its sample rate in Hz; raise the errors of `load_audio`.

    Samples of a float file in the range of 16-bit integers are scaled to about [-1, 1], which is said once.
    """
    samples, file_rate = read_samples(source, max_seconds)
    check_samples(samples, file_rate, source)
    if holds_integers(samples):
        say_scaled(source)
        samples = samples / np.float32(FULL_SCALE_16)
    return torch.from_numpy(samples), file_rate


def read_samples(source: Source, max_seconds: float = MAX_SECONDS) -> tuple[np.ndarray, int]:
    """Decode a file: float32 samples, channels averaged, and the file's own sample rate in Hz.

    Raises:
        BadAudio: the audio is missing, unreadable, cut short or longer than `max_seconds`, or its channels cancel out.
    """
    file = source.file() if isinstance(source, EncodedAudio) else Path(source)
    if isinstance(file, Path) and not exists(file):
        raise MissingAudio(describe_missing(file))
    if isinstance(file, Path) and is_other_sound(file):
        return read_other_format(file, max_seconds)
    try:
        with soundfile.SoundFile(file) as audio_file:
            check_header(audio_file, source, max_seconds)
            rate, blocks, loudest = audio_file.samplerate, [np.zeros(0, np.float32)], 0.0
            while len(block := audio_file.read(FRAMES_PER_READ, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
                loudest = max(loudest, float(np.abs(block).max()))
            is_stated = audio_file.format != "MP3" or states_length(file)
            samples, declared = np.concatenate(blocks), audio_file.frames if is_stated else 0
    # TypeError: soundfile needs a rate for names that end in .raw
    except (soundfile.LibsndfileError, TypeError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        advice = "make it a WAV, FLAC, OGG or MP3 file"
        raise UnreadableAudio(f"cannot read {source} as audio: {reason}; {advice}") from error
    check_whole(file, (declared - len(samples)) / rate, source)
    if loudest > 0 and np.abs(samples).max() < CANCELLED * loudest:
        raise CancelledAudio(f"the channels of {source} cancel each other out: keep one of them")
    return samples, rate


def holds_integers(samples: np.ndarray) -> bool:
    """Check whether samples are in the range of 16-bit integers; those of a float file have a full scale of 1."""
    return bool(LARGEST_FLOAT < np.abs(samples).max(initial=0.0) <= FULL_SCALE_16)


def check_whole(file: BytesIO | Path, missing_s: float, source: Source) -> None:
    """Raise PartialAudio where the header of a file says that it is longer, or empty though it is not."""
    size = wav_size(file)
    if size and not size.declared and size.present:
        raise PartialAudio(
            f"the header of {source} says that it is empty, and {size.present} bytes follow: a program wrote it to a "
            "pipe; let it write a file, or convert it"
        )
    missing_s = max(missing_s, size.missing_s if size else 0.0)
    if missing_s > MAX_MISSING_S:
        raise PartialAudio(f"{source} is cut short: its header says that it is {missing_s:.2f} s longer; copy it again")


said: list[Source] = []  # the first file whose samples were scaled by this process


def say_scaled(source: Source) -> None:
    """Print once per process that samples are scaled."""
    if not said:
        said.append(source)
        print(
            f"{source} has float samples in the range of 16-bit integers: they are scaled, here and in other such "
            "files (check-dataset lists them)"
        )


def check_header(audio_file: soundfile.SoundFile, source: Source, max_seconds: float) -> None:
    """Raise BadAudio if the header states a duration above the limit or an implausible sample rate."""
    if not SAMPLE_RATE_RANGE[0] <= audio_file.samplerate <= SAMPLE_RATE_RANGE[1]:
        raise UnreadableAudio(
            f"{source} says that it has {audio_file.samplerate} samples a second: its header is damaged"
        )
    seconds = audio_file.frames / audio_file.samplerate
    if seconds > max_seconds:
        raise too_long(source, f"{seconds:.1f} s", max_seconds)


def too_long(source: Source, lasts: str, max_seconds: float) -> LongAudio:
    """Build the error for a recording that is longer than the limit."""
    limit = f"datasets.max_seconds={max_seconds:g}"
    return LongAudio(f"{source} lasts {lasts}, longer than {limit}: shorten it, or raise the limit")


def read_other_format(file: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    """Decode a file that libsndfile does not read; raise the errors of `read_samples`."""
    try:
        samples, rate = decode(file, max_seconds)
    except (ImportError, ValueError) as error:
        raise UnreadableAudio(str(error)) from error
    if len(samples) > max_seconds * rate:
        raise too_long(file, f"more than {max_seconds:g} s", max_seconds)
    return samples, rate


def check_samples(samples: np.ndarray, rate: int, source: Source) -> None:
    """Raise BadAudio for a recording that is too short, silent, or not finite; the message names the file."""
    duration_s = len(samples) / rate
    if duration_s < MIN_SECONDS:
        raise ShortAudio(f"{source} lasts {duration_s:.4f} s; at least {MIN_SECONDS} s of audio is needed")
    num_non_finite = int((~np.isfinite(samples)).sum())
    if num_non_finite:
        raise NonFiniteAudio(f"{source} holds {num_non_finite} samples that are NaN or infinite, of {len(samples)}")
    if np.abs(samples).max() > FULL_SCALE_16:
        raise NonFiniteAudio(f"{source} holds samples of {np.abs(samples).max():.3g}; full scale is 1")
    if not samples.any():
        raise SilentAudio(f"{source} is silent: all {len(samples)} samples are zero")


def write_wav(path: str | Path, audio: Float[Tensor, " nw"], sample_rate: int) -> None:
    """Write a 16-bit mono WAV file; samples outside [-1, 1] are clipped."""
    samples = audio.detach().cpu().clamp(-1, 1).numpy()
    write_atomically(
        Path(path), lambda tmp_path: soundfile.write(tmp_path, samples, sample_rate, subtype="PCM_16", format="WAV")
    )
