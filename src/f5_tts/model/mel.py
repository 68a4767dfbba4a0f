"""Waveform -> log-mel, as the published F5-TTS models see it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from f5_tts.config.schema import MelSpecConfig

FLOOR = 1e-5  # smallest mel magnitude; its log is what silence looks like
BIGVGAN_POWER = 1e-9  # added to every bin's power before the root
SLANEY_HZ = 200 / 3  # of one mel, up to the bend
SLANEY_BEND = 1000.0  # Hz; above it 27 mels are a factor of 6.4


class LogMel(nn.Module):
    """Natural log of the mel magnitudes of a waveform, frames first.

    The ends are mirrored. With `vocos`, frame i is centred on sample i * hop_length, and `nw` samples give
    `nw // hop_length + 1` frames; with `bigvgan` it is centred half a hop later, and they give `nw // hop_length`.
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
        """Natural log of the mel magnitudes, a frame every hop; ValueError for too few samples to mirror or frame."""
        spec, edge = self.spec, edge_samples(self.spec)
        min_samples = max(edge + 1, spec.n_fft - 2 * edge)
        if wave.shape[-1] < min_samples:
            raise ValueError(f"a waveform of {wave.shape[-1]} samples is too short; mel frames need {min_samples}")
        spectrum = torch.stft(
            pad(wave, (edge, edge), mode="reflect"),
            spec.n_fft,
            spec.hop_length,
            spec.win_length,
            self.window,
            center=False,
            return_complex=True,
        )
        magnitude = spectrum.abs()
        if spec.mel_spec_type == "bigvgan":
            magnitude = (magnitude.square() + BIGVGAN_POWER).sqrt()
        return (magnitude.transpose(1, 2) @ self.filters).clamp(min=FLOOR).log()


def edge_samples(spec: MelSpecConfig) -> int:
    """Samples mirrored at each end of a waveform; the one place that says where frames begin, and so how many fit."""
    return (spec.n_fft - spec.hop_length) // 2 if spec.mel_spec_type == "bigvgan" else spec.n_fft // 2


def frames_in(seconds: float, spec: MelSpecConfig) -> int:
    """How many frames a clip that lasts so long has, to the nearest."""
    return round(seconds * spec.frames_per_second - (spec.n_fft - 2 * edge_samples(spec)) / spec.hop_length) + 1


def mel_filters(spec: MelSpecConfig) -> Float[Tensor, "f d"]:
    """Triangles from 0 Hz to half the sample rate: of height one on HTK's scale, or of area one on Slaney's (bigvgan).

    Both are evenly spaced on their mel scale, and straight in Hz: filter k rises from corner k to k + 1 and falls to
    corner k + 2. HTK's are in single precision throughout, as in the published models: double precision moves the
    weights by up to 7e-6.
    """
    return slaney_filters(spec) if spec.mel_spec_type == "bigvgan" else htk_filters(spec)


def htk_filters(spec: MelSpecConfig) -> Float[Tensor, "f d"]:
    nyquist = spec.target_sample_rate / 2
    bins = torch.linspace(0, nyquist, spec.n_fft // 2 + 1)
    mels = torch.linspace(0, 2595 * math.log10(1 + nyquist / 700), spec.n_mel_channels + 2)
    return triangles(bins, 700 * (10 ** (mels / 2595) - 1))


def slaney_filters(spec: MelSpecConfig) -> Float[Tensor, "f d"]:
    nyquist = spec.target_sample_rate / 2
    bins = torch.linspace(0, nyquist, spec.n_fft // 2 + 1, dtype=torch.float64)
    mels = torch.linspace(0, slaney_mel(nyquist), spec.n_mel_channels + 2, dtype=torch.float64)
    bend = slaney_mel(SLANEY_BEND)
    corners = torch.where(mels < bend, mels * SLANEY_HZ, SLANEY_BEND * 6.4 ** ((mels - bend) / 27))
    return (triangles(bins, corners) * 2 / (corners[2:] - corners[:-2])).float()


def slaney_mel(hz: float) -> float:
    return min(hz, SLANEY_BEND) / SLANEY_HZ + 27 * math.log(max(hz, SLANEY_BEND) / SLANEY_BEND, 6.4)


def triangles(bins: Float[Tensor, " f"], corners: Float[Tensor, " k"]) -> Float[Tensor, "f d"]:
    """Height one at the middle corner of each three in a row, zero at and beyond the others; all in Hz."""
    low, center, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (bins[:, None] - low) / (center - low)
    falling = (high - bins[:, None]) / (high - center)
    return torch.minimum(rising, falling).clamp(min=0)
