"""Waveform -> log-mel filter bank as Kaldi computes it, which speaker models hear (pure)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

FRAME, SHIFT, FFT = 400, 160, 512  # samples at 16 kHz: 25 ms, 10 ms, and the points of the transform
PRE_EMPHASIS, MIN_HZ, NYQUIST_HZ = 0.97, 20.0, 8000.0


def kaldi_fbank(wave: Float[Tensor, " nw"], num_bins: int = 80) -> Float[Tensor, "n d"]:
    """Natural log of the power in `num_bins` mel bands of each frame that lies whole in a 16 kHz waveform.

    No dither. Kaldi's scale is that of 16-bit samples: a waveform in [-1, 1] is 32768 times too quiet for models that
    were trained with it. A waveform of fewer than 400 samples has no frame, and is a RuntimeError of torch.
    """
    frames = wave.unfold(0, FRAME, SHIFT)
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    window = torch.hamming_window(FRAME, periodic=False, dtype=wave.dtype, device=wave.device)
    power = torch.fft.rfft((frames - PRE_EMPHASIS * previous) * window, FFT).abs().square()
    energy = power @ mel_bands(num_bins).to(power)
    return energy.clamp(min=torch.finfo(torch.float32).eps).log()


def mel_bands(num_bins: int) -> Float[Tensor, "f d"]:
    """Triangles that are even on the mel scale, 1127 ln(1 + f / 700), over the bins of the transform."""
    first, last = mel(torch.tensor([MIN_HZ, NYQUIST_HZ])).tolist()
    edges = torch.linspace(first, last, num_bins + 2)
    position = mel(torch.arange(FFT // 2 + 1) * (2 * NYQUIST_HZ / FFT))[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((position - low) / (middle - low), (high - position) / (high - middle)).clamp(min=0)


def mel(hz: Tensor) -> Tensor:
    return 1127 * (1 + hz / 700).log()
