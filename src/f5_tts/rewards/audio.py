"""Clips made ready for reward models that hear 16 kHz, and where such models may live."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence

import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.data.audio import MIN_SECONDS
from f5_tts.types import RewardInput

ASR_RATE = 16_000  # Hz


def is_usable(clip: Float[Tensor, " nw"], sample_rate: int) -> bool:
    """Whether a clip holds a sound to judge: finite, at least 0.1 s long, not all zeros."""
    long_enough = clip.numel() >= MIN_SECONDS * sample_rate
    return long_enough and bool(clip.isfinite().all()) and bool(clip.any())


def usable_indices(clips: list[Tensor], sample_rate: int) -> list[int]:
    """Which clips hold a sound to judge; warns about the others, once per run."""
    usable = [i for i, clip in enumerate(clips) if is_usable(clip, sample_rate)]
    if len(usable) < len(clips):
        warnings.warn("some clips are silent, not finite or shorter than 0.1 s: they get the worst score", stacklevel=2)
    return usable


def to_16k_mono(clip: Float[Tensor, " nw"], sample_rate: int) -> Float[Tensor, " nv"]:
    """The clip at 16 kHz, cut off at full scale (as a player would), in float32 on the CPU."""
    samples = clip.detach().to("cpu", torch.float32).clamp(-1, 1)
    if sample_rate == ASR_RATE:
        return samples
    return torch.from_numpy(soxr.resample(samples.numpy(), sample_rate, ASR_RATE))


def shared_rate(inputs: Sequence[RewardInput]) -> int:
    """The one sample rate of all inputs, in Hz."""
    rates = {item.sample_rate for item in inputs}
    if len(rates) != 1:
        raise ValueError(f"rewards are given to clips of one sample rate at a time, got {sorted(rates)} Hz")
    return rates.pop()


def fingerprint(clip: Float[Tensor, " nw"], sample_rate: int) -> bytes:
    """The same for equal samples at one rate, and for nothing else."""
    content = clip.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
    return hashlib.sha256(content + sample_rate.to_bytes(8, "little")).digest()
