"""Griffin-Lim vocoder: log-mel to waveform without trained weights."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from f5_tts.config.schema import MelSpecConfig
from f5_tts.model.mel import edge_samples, mel_filters
from f5_tts.model.vocoders.decode import DecodesMel

MOMENTUM = 0.99  # of fast Griffin-Lim (Perraudin, Balazs, Søndergaard 2013); 1 or more may diverge
BATCH_SIZE = 4  # spectra that fit into a processor's cache; 32 at once take about a quarter more time
MIN_MAGNITUDE = 1e-12  # keeps the phase of an empty bin finite


class GriffinLim(DecodesMel):
    """Fast Griffin-Lim vocoder (Perraudin, Balazs, Søndergaard 2013).

    Each iteration makes the spectrum consistent (inverse STFT, then STFT) and restores the magnitudes. Phases start at
    zero, so equal mels give equal waveforms and no random numbers are drawn. The items of a batch are concatenated on
    one time axis, with gaps wide enough that no window covers two of them: items do not affect each other, and no work
    is spent on padding. The linear spectrum comes from the pseudo-inverse of the mel filters.
    """

    inverse: Tensor
    window: Tensor
    overlap_gain: Tensor

    def __init__(self, mel_spec: MelSpecConfig, iterations: int = 8):
        super().__init__()
        self.spec = mel_spec
        self.iterations = iterations
        self.hops_per_frame = math.ceil(mel_spec.n_fft / mel_spec.hop_length)  # hops per window, rounded up
        self.gap_frames = self.hops_per_frame - 1  # silent frames that separate two items
        window = centered_window(mel_spec)
        hops = pad(window.square(), (0, self.hops_per_frame * mel_spec.hop_length - mel_spec.n_fft)).view(
            self.hops_per_frame, -1
        )
        self.register_buffer("inverse", torch.linalg.pinv(mel_filters(mel_spec)), persistent=False)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("overlap_gain", 1 / hops.sum(dim=0), persistent=False)

    @torch.no_grad()
    def forward(self, mel: Float[Tensor, "b n d"], lens: Int[Tensor, " b"]) -> list[Float[Tensor, " nw"]]:
        """Synthesize one waveform per item: hop * (len - 1) samples, for bigvgan mels hop * len.

        Frames past an item's length are not read. The audio is float32 on the mel's device, not clipped.

        Raises:
            ValueError: a log-mel holds NaN, or values whose exponential overflows.
        """
        self.to(mel.device)
        batches = zip(mel.float().split(BATCH_SIZE), lens.split(BATCH_SIZE), strict=True)
        return [wave for batch in batches for wave in self.waveforms(*batch)]

    def waveforms(self, mel: Float[Tensor, "b n d"], lens: Int[Tensor, " b"]) -> list[Float[Tensor, " nw"]]:
        """Synthesize the waveforms of a few items, whose spectra fit into a processor's cache."""
        samples = self.synthesize(self.spectrum(self.time_line(mel, lens)))
        starts = (lens + self.gap_frames).cumsum(dim=0) - (lens + self.gap_frames)
        edge = edge_samples(self.spec)
        first = (starts * self.spec.hop_length + edge).tolist()
        last = ((starts + lens - 1) * self.spec.hop_length + self.spec.n_fft - edge).tolist()
        return [samples[begin:end].clone() for begin, end in zip(first, last, strict=True)]

    def time_line(self, mel: Float[Tensor, "b n d"], lens: Int[Tensor, " b"]) -> Float[Tensor, "t f"]:
        """Concatenate the items' magnitudes along time, each followed by enough silent frames to separate them."""
        index = torch.arange(mel.shape[1] + self.gap_frames, device=mel.device)
        magnitude = pad((mel.exp() @ self.inverse).clamp(min=0), (0, 0, 0, self.gap_frames))
        magnitude[index >= lens[:, None]] = 0
        line = magnitude[index < (lens + self.gap_frames)[:, None]]
        if not line.isfinite().all():
            raise ValueError(
                "a log-mel cannot be converted to audio: it holds NaN, or values so high that their exponential "
                "overflows"
            )
        return line

    def spectrum(self, magnitude: Float[Tensor, "t f"]) -> Complex[Tensor, "t f"]:
        """Estimate the phases of these magnitudes by fast Griffin-Lim."""
        spectrum = torch.complex(magnitude, torch.zeros_like(magnitude))
        previous = spectrum.clone()
        for _ in range(self.iterations):
            consistent = self.analyze(self.synthesize(spectrum))
            # Complex lerp and out-of-place products are several times slower than these.
            torch.view_as_real(previous).lerp_(torch.view_as_real(consistent), 1 + MOMENTUM)
            spectrum = previous.mul_(magnitude / previous.abs().clamp_(min=MIN_MAGNITUDE))
            previous = consistent
        return spectrum

    def synthesize(self, spectrum: Complex[Tensor, "t f"]) -> Float[Tensor, " nw"]:
        """Invert the STFT by overlap-add; frame i is centered on sample n_fft / 2 + i * hop."""
        hop = self.spec.hop_length
        frames = torch.fft.irfft(spectrum, n=self.spec.n_fft).mul_(self.window)
        hops = frames.new_zeros(len(frames) + self.hops_per_frame - 1, hop)
        for k in range(self.hops_per_frame):
            segment = frames[:, k * hop : (k + 1) * hop]  # the last one may be shorter than a hop
            hops[k : k + len(frames), : segment.shape[1]] += segment
        return hops.mul_(self.overlap_gain).flatten()

    def analyze(self, samples: Float[Tensor, " nw"]) -> Complex[Tensor, "t f"]:
        """Compute the STFT of a waveform without padding."""
        frames = samples.unfold(0, self.spec.n_fft, self.spec.hop_length)
        return torch.fft.rfft(frames * self.window)


def centered_window(spec: MelSpecConfig) -> Float[Tensor, " nw"]:
    """Return the Hann window in the middle of n_fft samples, as in the mel's STFT."""
    margin = spec.n_fft - spec.win_length
    return pad(torch.hann_window(spec.win_length), (margin // 2, margin - margin // 2))
