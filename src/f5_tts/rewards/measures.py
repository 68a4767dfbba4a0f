"""Measures of a clip that need no model: F0 spread, speech rate, pauses, clicks and clipping."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from f5_tts.data.texts import normalize
from f5_tts.rewards.audio import is_usable
from f5_tts.types import RewardInput

WINDOW_S = 0.02  # window of the power
QUIET_DB = -40.0  # silence threshold, relative to the loudest window of the clip
FULL_SCALE = 0.999  # a sample of at least this amplitude counts as clipped
F0_RANGE = (60.0, 400.0)  # Hz, of voices
F0_WINDOW_S, F0_HOP_S = 0.04, 0.01
VOICED = 0.45  # least autocorrelation of a voiced frame, relative to its power
OCTAVE = 0.85  # a shorter period counts if its autocorrelation is this share of the highest one
MIN_VOICED = 10  # frames; with fewer there is no spread
SPREAD = (0.16, 0.84)  # quantiles that are two standard deviations apart in a normal distribution
CLICK_NEAR_S = 0.003  # how far a click stands out on both sides
CLICK_WIDTH = 3  # samples beside a click that belong to it
CLICK_RATIO, CLICK_LEVEL = 4.0, 0.05  # least change of slope: relative to that nearby, and to the clip's peak
MEASURES = ("f0_spread", "speech_rate", "pause", "clicks", "clipped")


def measure(item: RewardInput) -> dict[str, float]:
    """Compute the MEASURES of a clip that apply to it; none of an unusable clip."""
    clip, rate = item.audio.detach().float().cpu(), item.sample_rate
    if not is_usable(clip, rate):
        return {}
    found = {
        "f0_spread": f0_spread(clip, rate),
        "speech_rate": speech_rate(item),
        "pause": longest_silence(clip, rate),
        "clicks": clicks_per_second(clip, rate),
        "clipped": clipped_share(clip),
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}


def f0_spread(clip: Float[Tensor, " nw"], sample_rate: int) -> float:
    """Return the spread of F0 in semitones: half the distance of its quantiles, so that octave errors hardly count.

    It is the standard deviation of a normal distribution. NaN with fewer than MIN_VOICED voiced frames.
    """
    voiced = f0_track(clip, sample_rate)
    if len(voiced) < MIN_VOICED:
        return math.nan
    low, high = torch.quantile(12 * voiced.log2(), torch.tensor(SPREAD)).tolist()
    return (high - low) / 2


def f0_track(clip: Float[Tensor, " nw"], sample_rate: int) -> Float[Tensor, " n"]:
    """Estimate F0 in Hz of each voiced frame, by autocorrelation.

    The period is the shortest one whose autocorrelation is a peak and nearly the highest.
    """
    size, hop = round(F0_WINDOW_S * sample_rate), round(F0_HOP_S * sample_rate)
    if len(clip) < size:
        return torch.empty(0)
    frames = clip.unfold(0, size, hop)
    frames = frames - frames.mean(dim=1, keepdim=True)
    power = frames.square().sum(dim=1)
    longest, shortest = (round(sample_rate / frequency) for frequency in F0_RANGE)
    products = torch.fft.irfft(torch.fft.rfft(frames, 2 * size).abs().square(), 2 * size)[:, : longest + 2]
    correlation = products / products[:, :1].clamp(min=1e-12)
    best = correlation[:, shortest:].amax(dim=1)
    is_period = peaks(correlation) & (correlation >= OCTAVE * best[:, None])
    is_period[:, :shortest] = False
    is_loud = power > power.max() * 10 ** (QUIET_DB / 10)
    voiced = (best > VOICED) & is_loud & is_period.any(dim=1)
    return sample_rate / is_period[voiced].float().argmax(dim=1)


def peaks(rows: Float[Tensor, "n t"]) -> Bool[Tensor, "n t"]:
    """Check which values are at least as high as both neighbors; those at the ends are not."""
    inner = (rows[:, 1:-1] >= rows[:, :-2]) & (rows[:, 1:-1] >= rows[:, 2:])
    return F.pad(inner, (1, 1))


def speech_rate(item: RewardInput) -> float:
    """Return letters and digits of the text per second, silence included; NaN for a text without any.

    Where a prompt was cut from the clip, its duration counts too, because its words are in the text.
    """
    samples = item.audio.numel() + (0 if item.prompt_audio is None else item.prompt_audio.numel())
    letters = len(normalize(item.text).replace(" ", ""))
    return letters * item.sample_rate / samples if letters else math.nan


def longest_silence(clip: Float[Tensor, " nw"], sample_rate: int) -> float:
    """Return the duration in seconds of the longest silence.

    A window is silent if its power is below QUIET_DB relative to the loudest window. A last incomplete window is
    ignored.
    """
    power = clip.detach().float().unfold(0, *[round(WINDOW_S * sample_rate)] * 2).square().mean(dim=1)
    quiet = power < power.max() * 10 ** (QUIET_DB / 10)
    ends = torch.cat([torch.tensor([-1]), (~quiet).nonzero().flatten().cpu(), torch.tensor([len(quiet)])])
    return (ends.diff().max().item() - 1) * WINDOW_S


def clicks_per_second(clip: Float[Tensor, " nw"], sample_rate: int) -> float:
    """Count the changes of slope that stand out alone, per second: a wrong sample, or a cut within a wave.

    A change counts if it is CLICK_RATIO times as large as any within CLICK_NEAR_S before and after it, and CLICK_LEVEL
    of the clip's peak. The onset of a consonant rings on, and does not count.
    """
    bends = clip.diff(n=2).abs()
    near = round(CLICK_NEAR_S * sample_rate)
    around = running_max(F.pad(bends, (near + CLICK_WIDTH, near + CLICK_WIDTH)), near)
    before, after = around[: len(bends)], around[-len(bends) :]
    is_alone = bends > CLICK_RATIO * torch.maximum(before, after)
    is_highest = bends == running_max(F.pad(bends, (CLICK_WIDTH, CLICK_WIDTH)), 2 * CLICK_WIDTH + 1)
    is_click = is_alone & is_highest & (bends > CLICK_LEVEL * clip.abs().max())
    return is_click.sum().item() * sample_rate / len(clip)


def running_max(values: Float[Tensor, " t"], size: int) -> Float[Tensor, " n"]:
    """Return the maximum of each window of this size."""
    return F.max_pool1d(values[None, None], size, stride=1)[0, 0]


def clipped_share(clip: Float[Tensor, " nw"]) -> float:
    """Return the share of samples at full scale."""
    return (clip.abs() >= FULL_SCALE).float().mean().item()
