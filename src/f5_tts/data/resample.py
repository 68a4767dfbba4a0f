"""Resampling of waveforms with the filter that published F5-TTS models were trained with, as a pure function.

The filter is a windowed sinc: a Hann window over six zero crossings, cut off at 0.99 of the lower Nyquist frequency, as
in torchaudio's defaults. Better filters exist, but the models expect this one.
"""

from __future__ import annotations

from math import ceil, gcd, pi

import torch
from jaxtyping import Float
from torch import Tensor

ZERO_CROSSINGS, ROLLOFF = 6, 0.99
OUTPUT_BLOCK = 2**16  # output samples per block, which limits memory


def resample(wave: Float[Tensor, " nw"], rate: int, new_rate: int) -> Float[Tensor, " nv"]:
    """Resample a waveform to another rate (Hz): n samples become ceil(n * new rate / old rate)."""
    if rate == new_rate:
        return wave
    step, phases = rate // gcd(rate, new_rate), new_rate // gcd(rate, new_rate)  # input and output samples per period
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
    """Compute, for each output sample of a period, the filter and the input sample where it starts."""
    cutoff = min(step, phases) * ROLLOFF / step  # as a fraction of the input's Nyquist frequency
    width = ceil(ZERO_CROSSINGS / cutoff)
    positions = torch.arange(phases, dtype=torch.float64) * step / phases  # position of each output, in input samples
    first = positions.floor().long() - width
    distance = cutoff * (first[:, None] + torch.arange(2 * width + 2) - positions[:, None])
    window = (distance.clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS) * (pi / ZERO_CROSSINGS / 2)).cos().square()
    return first, torch.sinc(distance.clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)) * window * cutoff
