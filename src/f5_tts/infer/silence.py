"""Silence detection for trimming, cutting and shortening of pauses.

Published F5-TTS uses pydub, whose silence threshold is relative to full scale. Here a window of 10 ms is silent if it
is far below the loudest window, so quiet and loud recordings give the same result.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d

WINDOW_S = 0.01
SILENT_DB = -40.0  # silence threshold, relative to the loudest window
CUT_S = 0.2  # a recording is cut at the quietest span of this length
MAX_PAUSE_S = 1.0  # longer pauses are shortened to this
MIN_POWER = 1e-10  # minimum power, which keeps the logarithm finite


def window_samples(sample_rate: int) -> int:
    """Return the samples of a 10 ms window."""
    return int(WINDOW_S * sample_rate)


def level_db(wave: Float[Tensor, " nw"], sample_rate: int) -> Float[Tensor, " k"]:
    """Compute the power of each full 10 ms window in dB; 0 dB is a constant of 1."""
    size = window_samples(sample_rate)
    return 10 * wave.unfold(0, size, size).square().mean(dim=1).clamp(min=MIN_POWER).log10()


def sound_mask(wave: Float[Tensor, " nw"], sample_rate: int, margin_s: float) -> Bool[Tensor, " k"]:
    """Check for each 10 ms window whether it has sound or is within `margin_s` of sound."""
    level = level_db(wave, sample_rate)
    is_loud = (level > level.max() + SILENT_DB).float()
    radius = round(margin_s / WINDOW_S)
    return max_pool1d(is_loud[None], 2 * radius + 1, stride=1, padding=radius)[0] > 0


def trim_silence(wave: Float[Tensor, " nw"], sample_rate: int, margin_s: float) -> Float[Tensor, " _"]:
    """Trim the silence at both ends, except for `margin_s`."""
    sound_windows = sound_mask(wave, sample_rate, margin_s).nonzero().flatten()
    size, windows = window_samples(sample_rate), len(wave) // window_samples(sample_rate)
    end = len(wave) if sound_windows[-1] == windows - 1 else (int(sound_windows[-1]) + 1) * size
    return wave[int(sound_windows[0]) * size : end]


def cut_at_pause(wave: Float[Tensor, " nw"], sample_rate: int, max_seconds: float) -> Float[Tensor, " _"]:
    """Cut a waveform to at most `max_seconds`, at the quietest 0.2 s of the second half of that span."""
    if len(wave) <= max_seconds * sample_rate:
        return wave
    size, width = window_samples(sample_rate), round(CUT_S / WINDOW_S)
    power = wave[: int(max_seconds * sample_rate)].unfold(0, size, size).square().mean(dim=1)
    half = len(power) // 2
    quietest = int(avg_pool1d(power[None, half:], width, stride=1)[0].argmin())
    return wave[: (half + quietest + width // 2) * size]


def shorten_pauses(wave: Float[Tensor, " nw"], sample_rate: int) -> Float[Tensor, " _"]:
    """Shorten pauses longer than one second to one second, and silence at both ends to half a second."""
    size = window_samples(sample_rate)
    kept = sound_mask(wave, sample_rate, MAX_PAUSE_S / 2)
    return torch.cat([wave.unfold(0, size, size)[kept].flatten(), wave[len(kept) * size :]])
