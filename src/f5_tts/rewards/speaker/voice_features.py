"""Features of Resemblyzer's published encoder: mel power of windows of a waveform."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from f5_tts.rewards.audio import ASR_RATE

# as the published encoder was trained, at 16 kHz
WINDOW, HOP, MEL_BINS = 400, 160, 40  # samples, samples, mel bands from 0 to 8 kHz
WINDOW_FRAMES = 160  # frames per window: 1.6 s
WINDOW_STEP = 77  # frames between windows: 1.3 windows per second
MIN_COVERAGE = 0.75  # share of a window that must lie within the clip
MIN_RMS = 10 ** (-30 / 20)  # RMS to which quieter clips are amplified, -30 dBFS


def cut_windows(clips: list[Tensor]) -> tuple[Float[Tensor, "w n 40"], Int[Tensor, " w"]]:
    """Compute the mel power of each 1.6 s window of the clips (16 kHz), and the index of its clip."""
    padded = [pad_by_reflection(normalize_volume(clip)) for clip in clips]
    mel = mel_power(pad_sequence(padded, batch_first=True, padding_value=0.0))
    positions = [(i, start) for i, clip in enumerate(padded) for start in window_starts(len(clip))]
    mel = F.pad(mel, (0, 0, 0, WINDOW_FRAMES))
    return torch.stack([mel[i, start : start + WINDOW_FRAMES] for i, start in positions]), torch.tensor(
        [i for i, _ in positions]
    )


def window_starts(num_samples: int) -> range:
    """Return the first frames of the windows: 0, and each further one with at least 75 % inside the clip."""
    usable = num_samples - int(MIN_COVERAGE * WINDOW_FRAMES * HOP)
    return range(0, max(0, usable // HOP) + 1, WINDOW_STEP)


def normalize_volume(clip: Float[Tensor, " nw"]) -> Float[Tensor, " nw"]:
    """Amplify a clip to -30 dBFS if it is quieter."""
    return clip * (MIN_RMS / clip.square().mean().sqrt()).clamp(min=1.0)


def pad_by_reflection(clip: Float[Tensor, " nw"]) -> Float[Tensor, " nv"]:
    """Extend a clip shorter than 1.6 s by reflection: forwards and backwards in turn.

    The published code appends silence. On 22 synthetic voices saying two to five digits (0.5-1.7 s), silence gives an
    equal error rate of 12.0 % and a higher cosine for shorter clips. Reflection gives 10.6 %, with the same level for
    all lengths.
    """
    missing = WINDOW_FRAMES * HOP - len(clip)
    if missing <= 0:
        return clip
    reflected = torch.cat([clip, clip.flip(0)])
    return reflected.repeat(missing // len(reflected) + 2)[: WINDOW_FRAMES * HOP]


def mel_power(clips: Float[Tensor, "b nw"]) -> Float[Tensor, "b n 40"]:
    """Compute the power in 40 mel bands, 100 frames per second; the clip is zero-padded on both sides."""
    spectrum = torch.stft(
        clips, WINDOW, HOP, window=torch.hann_window(WINDOW), pad_mode="constant", return_complex=True
    )
    return spectrum.abs().square().mT @ mel_filters(WINDOW // 2 + 1, ASR_RATE / 2).mT


def mel_filters(num_bins: int, nyquist_hz: float) -> Float[Tensor, "40 f"]:
    """Build triangular filters of area one (in Hz) from 0 to 8 kHz over FFT bins from 0 Hz to `nyquist_hz`.

    They are evenly spaced on the Slaney mel scale, which is linear to 1 kHz (mel 15) and logarithmic above.
    """
    rise = math.log(6.4) / 27  # step of log-frequency per mel
    mels = torch.linspace(0, 15 + math.log(ASR_RATE / 2000) / rise, MEL_BINS + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * ((mels - 15) * rise).exp())
    low, center, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hz = torch.linspace(0, nyquist_hz, num_bins, dtype=torch.float64)
    triangles = torch.minimum((hz - low) / (center - low), (high - hz) / (high - center)).clamp(min=0)
    return (2 / (high - low) * triangles).float()
