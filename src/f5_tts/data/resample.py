"""A waveform at another rate, by the filter through which published F5-TTS models have heard all audio (pure).

Windowed sinc interpolation, a Hann window over six zero crossings, cut off at 0.99 of the lower Nyquist frequency: what
torchaudio does by default. Better filters exist; models are used to this one.
"""

from __future__ import annotations

from math import ceil, gcd, pi

import torch
from jaxtyping import Float
from torch import Tensor

ZERO_CROSSINGS, ROLLOFF = 6, 0.99
OUTPUT_BLOCK = 2**16  # output samples computed at once


def resample(wave: Float[Tensor, " nw"], rate: int, new_rate: int) -> Float[Tensor, " nv"]:
    """From `rate` to `wanted` (Hz); ceil(n wanted / rate) samples."""
    if rate == new_rate:
        return wave
    step, phases = rate // gcd(rate, new_rate), new_rate // gcd(rate, new_rate)  # inputs and outputs of one period
    first, weights = interpolation(step, phases)
    margin = weights.shape[1]
    padded = torch.nn.functional.pad(wave, (margin, margin + step))
    blocks = torch.arange(ceil(len(wave) * phases / step)).split(OUTPUT_BLOCK)
    taps = torch.arange(margin)
    starts = [block // phases * step + first[block % phases] + margin for block in blocks]
    return torch.cat(
        [
            (padded[start[:, None] + taps] * weights[block % phases].to(wave)).sum(dim=1)
            for start, block in zip(starts, blocks, strict=True)
        ]
    )


def interpolation(step: int, phases: int) -> tuple[Tensor, Float[Tensor, "p k"]]:
    """For each output of a period the input where its filter starts, and the filter."""
    cutoff = min(step, phases) * ROLLOFF / step  # of the inputs' Nyquist frequency
    width = ceil(ZERO_CROSSINGS / cutoff)
    positions = torch.arange(phases, dtype=torch.float64) * step / phases  # an output's place among inputs
    first = positions.floor().long() - width
    distance = cutoff * (first[:, None] + torch.arange(2 * width + 2) - positions[:, None])
    window = (distance.clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS) * (pi / ZERO_CROSSINGS / 2)).cos().square()
    return first, torch.sinc(distance.clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)) * window * cutoff
