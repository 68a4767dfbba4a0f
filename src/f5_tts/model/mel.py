"""Log-mel spectrogram as published F5-TTS models expect it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from f5_tts.config.schema import MelSpecConfig

FLOOR = 1e-5  # minimum mel magnitude, which is that of silence
BIGVGAN_POWER = 1e-9  # added to every bin's power before the square root
SLANEY_HZ = 200 / 3  # Hz per mel below SLANEY_BEND
SLANEY_BEND = 1000.0  # Hz; above it the scale is logarithmic, 27 mels per factor of 6.4


class LogMel(nn.Module):
    """Natural logarithm of the mel magnitudes of a waveform, frames first.

    Both ends of the waveform are padded by reflection. With `vocos`, frame i is centered on sample i * hop_length, and
    `nw` samples give `nw // hop_length + 1` frames. With `bigvgan` it is centered half a hop later, and they give `nw
    // hop_length` frames. The buffers are in no state dict, so a model that contains this module keeps its published
    parameter names.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, spec: MelSpecConfig):
        super().__init__()
        self.spec = spec
        self.register_buffer("window", torch.hann_window(spec.win_length), persistent=False)
        self.register_buffer("filters", mel_filters(spec), persistent=False)

    def forward(self, wave: Float[Tensor, "b nw"]) -> Float[Tensor, "b n d"]:
        """Compute the log-mel, one frame per hop.

        Raises:
            ValueError: the waveform has too few samples for reflection or for one frame.
        """
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
    """Return the samples padded at each end of a waveform, which determine where frames begin and how many fit."""
    return (spec.n_fft - spec.hop_length) // 2 if spec.mel_spec_type == "bigvgan" else spec.n_fft // 2


def frames_in(seconds: float, spec: MelSpecConfig) -> int:
    """Return the number of frames of a clip of this duration, to the nearest."""
    return round(seconds * spec.frames_per_second - (spec.n_fft - 2 * edge_samples(spec)) / spec.hop_length) + 1


def mel_filters(spec: MelSpecConfig) -> Float[Tensor, "f d"]:
    """Make triangular mel filters up to half the sample rate: HTK's of height one, or Slaney's of area one (bigvgan).

    Both are evenly spaced on their mel scale and piecewise linear in Hz: filter k rises from corner k to k + 1 and
    falls to corner k + 2. HTK's are computed in float32 throughout, as in the published models; float64 changes the
    weights by up to 7e-6.
    """
    return slaney_filters(spec) if spec.mel_spec_type == "bigvgan" else htk_filters(spec)


def htk_filters(spec: MelSpecConfig) -> Float[Tensor, "f d"]:
    """Make filters of height one, evenly spaced on HTK's mel scale 2595 log10(1 + f / 700)."""
    nyquist = spec.target_sample_rate / 2
    bins = torch.linspace(0, nyquist, spec.n_fft // 2 + 1)
    mels = torch.linspace(0, 2595 * math.log10(1 + nyquist / 700), spec.n_mel_channels + 2)
    return triangles(bins, 700 * (10 ** (mels / 2595) - 1))


def slaney_filters(spec: MelSpecConfig) -> Float[Tensor, "f d"]:
    """Make filters of area one, evenly spaced on Slaney's mel scale: linear up to 1000 Hz, logarithmic above."""
    nyquist = spec.target_sample_rate / 2
    bins = torch.linspace(0, nyquist, spec.n_fft // 2 + 1, dtype=torch.float64)
    mels = torch.linspace(0, slaney_mel(nyquist), spec.n_mel_channels + 2, dtype=torch.float64)
    bend = slaney_mel(SLANEY_BEND)
    corners = torch.where(mels < bend, mels * SLANEY_HZ, SLANEY_BEND * 6.4 ** ((mels - bend) / 27))
    return (triangles(bins, corners) * 2 / (corners[2:] - corners[:-2])).float()


def slaney_mel(hz: float) -> float:
    """Convert a frequency in Hz to Slaney's mel scale."""
    return min(hz, SLANEY_BEND) / SLANEY_HZ + 27 * math.log(max(hz, SLANEY_BEND) / SLANEY_BEND, 6.4)


def triangles(bins: Float[Tensor, " f"], corners: Float[Tensor, " k"]) -> Float[Tensor, "f d"]:
    """Evaluate one triangle per three consecutive corners (Hz): one at the middle corner, zero at the outer ones."""
    low, center, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (bins[:, None] - low) / (center - low)
    falling = (high - bins[:, None]) / (high - center)
    return torch.minimum(rising, falling).clamp(min=0)
