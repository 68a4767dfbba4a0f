"""Waveform -> log-mel, as the published F5-TTS models see it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

MEL_SPEC_TYPES = ("vocos",)
FLOOR = 1e-5  # smallest mel magnitude; its log is what silence looks like


@dataclass(frozen=True, kw_only=True, slots=True)
class MelSpec:
    """What a mel frame means: the keys of `model.mel_spec`."""

    target_sample_rate: int  # Hz
    n_mel_channels: int
    hop_length: int  # samples from one frame to the next
    win_length: int  # samples, at most n_fft
    n_fft: int  # samples
    mel_spec_type: str  # one of MEL_SPEC_TYPES

    def __post_init__(self) -> None:
        if self.mel_spec_type not in MEL_SPEC_TYPES:
            allowed = ", ".join(MEL_SPEC_TYPES)
            raise ValueError(f"model.mel_spec.mel_spec_type is {self.mel_spec_type!r}; allowed: {allowed}")
        for key in ("target_sample_rate", "n_mel_channels", "hop_length", "win_length", "n_fft"):
            if getattr(self, key) < 1:
                raise ValueError(f"model.mel_spec.{key} is {getattr(self, key)}; it must be at least 1")
        if self.win_length > self.n_fft:
            raise ValueError(f"model.mel_spec.win_length is {self.win_length}; at most n_fft ({self.n_fft}) is allowed")

    @property
    def frames_per_second(self) -> float:
        return self.target_sample_rate / self.hop_length


class LogMel(nn.Module):
    """Natural log of the mel magnitudes of a waveform, frames first; `nw` samples give `nw // hop_length + 1` frames.

    Frame i is centred on sample i * hop_length; the ends are mirrored, so a waveform needs more than n_fft / 2 samples.
    Its buffers are in no state dict: a model that holds one keeps its published parameter names.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, spec: MelSpec):
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


def mel_filters(spec: MelSpec) -> Float[Tensor, "f d"]:
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
