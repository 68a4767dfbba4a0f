"""Where a waveform is silent, and what that is good for: trimming, cutting, shortening pauses (pure).

Published F5-TTS asks pydub for stretches below a level of full scale and joins them again. Here a window of 10 ms is
silent when it is far below the loudest one, so that a quiet recording is treated as a loud one is.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d

WINDOW_S = 0.01
SILENT_DB = -40.0  # of a window, relative to the loudest
CUT_S = 0.2  # the quietest stretch of this length is where a recording is cut
MAX_PAUSE_S = 1.0  # of speech whose pauses are shortened
MIN_POWER = 1e-10  # a power that keeps the logarithm finite


def window_samples(sample_rate: int) -> int:
    return int(WINDOW_S * sample_rate)


def level_db(wave: Float[Tensor, " nw"], sample_rate: int) -> Float[Tensor, " k"]:
    """Power of each whole 10 ms in dB; 0 is a constant of 1."""
    size = window_samples(sample_rate)
    return 10 * wave.unfold(0, size, size).square().mean(dim=1).clamp(min=MIN_POWER).log10()


def sound_mask(wave: Float[Tensor, " nw"], sample_rate: int, margin_s: float) -> Bool[Tensor, " k"]:
    """Whether each 10 ms has sound in it, or at most `margin_s` from it."""
    level = level_db(wave, sample_rate)
    is_loud = (level > level.max() + SILENT_DB).float()
    radius = round(margin_s / WINDOW_S)
    return max_pool1d(is_loud[None], 2 * radius + 1, stride=1, padding=radius)[0] > 0


def trim_silence(wave: Float[Tensor, " nw"], sample_rate: int, margin_s: float) -> Float[Tensor, " _"]:
    """The waveform without the silence at its ends, but for `margin_s` of it."""
    sound_windows = sound_mask(wave, sample_rate, margin_s).nonzero().flatten()
    size, windows = window_samples(sample_rate), len(wave) // window_samples(sample_rate)
    end = len(wave) if sound_windows[-1] == windows - 1 else (int(sound_windows[-1]) + 1) * size
    return wave[int(sound_windows[0]) * size : end]


def cut_at_pause(wave: Float[Tensor, " nw"], sample_rate: int, max_seconds: float) -> Float[Tensor, " _"]:
    """At most `longest_s` from the start, ending in the quietest 0.2 s of its second half."""
    if len(wave) <= max_seconds * sample_rate:
        return wave
    size, width = window_samples(sample_rate), round(CUT_S / WINDOW_S)
    power = wave[: int(max_seconds * sample_rate)].unfold(0, size, size).square().mean(dim=1)
    half = len(power) // 2
    quietest = int(avg_pool1d(power[None, half:], width, stride=1)[0].argmin())
    return wave[: (half + quietest + width // 2) * size]


def shorten_pauses(wave: Float[Tensor, " nw"], sample_rate: int) -> Float[Tensor, " _"]:
    """The waveform with the middle of each pause longer than a second left out; at its ends, half a second stays."""
    size = window_samples(sample_rate)
    kept = sound_mask(wave, sample_rate, MAX_PAUSE_S / 2)
    return torch.cat([wave.unfold(0, size, size)[kept].flatten(), wave[len(kept) * size :]])
