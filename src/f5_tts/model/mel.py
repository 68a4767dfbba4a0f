"""Waveform -> log-mel, as the published F5-TTS models see it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from f5_tts.config import MelSpecConfig

FLOOR = 1e-5  # smallest mel magnitude; its log is what silence looks like


class LogMel(nn.Module):
    """Natural log of the mel magnitudes of a waveform, frames first; `nw` samples give `nw // hop_length + 1` frames.

    Frame i is centred on sample i * hop_length; the ends are mirrored, so a waveform needs more than n_fft / 2 samples.
    Its buffers are in no state dict: a model that holds one keeps its published parameter names.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, spec: MelSpecConfig):
        super().__init__()
        self.spec = spec
        self.register_buffer("window", torch.hann_window(spec.win_length), persistent=False)
        self.register_buffer("filters", mel_filters(spec), persistent=False)

    def forward(self, wave: Float[Tensor, "b nw"]) -> Float[Tensor, "b n d"]:
        """Natural log of the mel magnitudes, a frame every hop; ValueError for n_fft / 2 samples or fewer."""
        spec = self.spec
        if wave.shape[-1] <= spec.n_fft // 2:
            raise ValueError(
                f"a waveform of {wave.shape[-1]} samples is too short; mel frames need {spec.n_fft // 2 + 1}"
            )
        spectrum = torch.stft(
            wave, spec.n_fft, spec.hop_length, spec.win_length, self.window, pad_mode="reflect", return_complex=True
        )
        mel = spectrum.abs().transpose(1, 2) @ self.filters
        return mel.clamp(min=FLOOR).log()


def mel_filters(spec: MelSpecConfig) -> Float[Tensor, "f d"]:
    """Triangles of height one from 0 Hz to half the sample rate, evenly spaced on the HTK mel scale.

    The triangles are straight in Hz, not in mel: filter k rises from corner k to k + 1 and falls to corner k + 2.
    Single precision throughout, as in the published models: double precision moves the weights by up to 7e-6.
    """
    nyquist = spec.target_sample_rate / 2
    bins = torch.linspace(0, nyquist, spec.n_fft // 2 + 1)
    corners = mel_to_hz(torch.linspace(0, hz_to_mel(nyquist), spec.n_mel_channels + 2))
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (bins[:, None] - low) / (centre - low)
    falling = (high - bins[:, None]) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0)


def hz_to_mel(hz: float) -> float:
    """HTK's mel scale."""
    return 2595 * math.log10(1 + hz / 700)


def mel_to_hz(mel: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    return 700 * (10 ** (mel / 2595) - 1)
