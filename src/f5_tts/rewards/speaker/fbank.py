"""Kaldi-compatible log-mel filter bank for speaker models."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

FRAME, SHIFT, FFT = 400, 160, 512  # samples at 16 kHz: frame of 25 ms, hop of 10 ms, FFT size
PRE_EMPHASIS, MIN_HZ, NYQUIST_HZ = 0.97, 20.0, 8000.0


def kaldi_fbank(wave: Float[Tensor, " nw"], num_bins: int = 80) -> Float[Tensor, "n d"]:
    """Compute the natural log of the power in `num_bins` mel bands of each full frame of a 16 kHz waveform.

    There is no dither. Kaldi works on 16-bit sample values, so models trained with it need a waveform in [-1, 1]
    multiplied by 32768. Torch raises RuntimeError for fewer than 400 samples, which hold no frame.
    """
    frames = wave.unfold(0, FRAME, SHIFT)
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    window = torch.hamming_window(FRAME, periodic=False, dtype=wave.dtype, device=wave.device)
    power = torch.fft.rfft((frames - PRE_EMPHASIS * previous) * window, FFT).abs().square()
    energy = power @ mel_bands(num_bins).to(power)
    return energy.clamp(min=torch.finfo(torch.float32).eps).log()


def mel_bands(num_bins: int) -> Float[Tensor, "f d"]:
    """Build triangular filters over the FFT bins, evenly spaced on the mel scale 1127 ln(1 + f / 700)."""
    first, last = mel(torch.tensor([MIN_HZ, NYQUIST_HZ])).tolist()
    edges = torch.linspace(first, last, num_bins + 2)
    position = mel(torch.arange(FFT // 2 + 1) * (2 * NYQUIST_HZ / FFT))[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((position - low) / (middle - low), (high - position) / (high - middle)).clamp(min=0)


def mel(hz: Tensor) -> Tensor:
    """Convert Hz to mel."""
    return 1127 * (1 + hz / 700).log()
