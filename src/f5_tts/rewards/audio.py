"""Audio checks and 16 kHz conversion for reward models."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence

import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config.schema import MelSpecConfig
from f5_tts.data.audio import MIN_SECONDS
from f5_tts.data.resample import resample
from f5_tts.types import RewardInput

ASR_RATE = 16_000  # Hz


def is_usable(clip: Float[Tensor, " nw"], sample_rate: int) -> bool:
    """Check whether a clip can be scored: finite, at least 0.1 s long, not all zeros."""
    long_enough = clip.numel() >= MIN_SECONDS * sample_rate
    return long_enough and bool(clip.isfinite().all()) and bool(clip.any())


def usable_indices(clips: list[Tensor], sample_rate: int) -> list[int]:
    """Return the indices of the clips that can be scored; warn once per run if there are others."""
    usable = [i for i, clip in enumerate(clips) if is_usable(clip, sample_rate)]
    if len(usable) < len(clips):
        warnings.warn("some clips are silent, not finite or shorter than 0.1 s: they get the worst score", stacklevel=2)
    return usable


def to_16k_mono(clip: Float[Tensor, " nw"], sample_rate: int) -> Float[Tensor, " nv"]:
    """Convert a mono clip to 16 kHz, float32, on the CPU, clipped to [-1, 1]."""
    samples = clip.detach().to("cpu", torch.float32).clamp(-1, 1)
    if sample_rate == ASR_RATE:
        return samples
    return torch.from_numpy(soxr.resample(samples.numpy(), sample_rate, ASR_RATE))


def resample_to_16k(clip: Float[Tensor, " nw"], sample_rate: int) -> Float[Tensor, " nv"]:
    """Convert a mono clip to 16 kHz, clipped to [-1, 1], with a gradient and in its own precision.

    The filter is not that of `to_16k_mono`, which has no gradient.
    """
    return resample(clip.clamp(-1, 1), sample_rate, ASR_RATE)


def shared_rate(inputs: Sequence[RewardInput]) -> int:
    """Return the sample rate of all inputs in Hz; raise ValueError if they differ."""
    rates = {item.sample_rate for item in inputs}
    if len(rates) != 1:
        raise ValueError(f"rewards are given to clips of one sample rate at a time, got {sorted(rates)} Hz")
    return rates.pop()


def log_mels(inputs: Sequence[RewardInput]) -> tuple[list[Float[Tensor, "_ d"]], MelSpecConfig]:
    """Return the log-mels of the inputs of a loss, and their settings; raise ValueError for inputs of `score`."""
    mels, specs = [item.mel for item in inputs if item.mel is not None], [item.mel_spec for item in inputs]
    if len(mels) < len(inputs) or not specs or specs[0] is None:
        raise ValueError(f"a loss of the log-mel needs mel and mel_spec of each clip, got {len(mels)} of {len(inputs)}")
    return mels, specs[0]


def fingerprint(clip: Float[Tensor, " nw"], sample_rate: int) -> bytes:
    """Return a SHA-256 hash of the samples and the sample rate."""
    content = clip.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
    return hashlib.sha256(content + sample_rate.to_bytes(8, "little")).digest()
