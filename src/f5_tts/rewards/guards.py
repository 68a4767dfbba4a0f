"""Rewards against failures that error rate and similarity miss: rate, monotony, long silence, clicks, clipping.

They need no model and no reference audio. Each score is 1 within its tolerance and falls towards 0 outside. With weight
0 the score is only reported, or used by a gate.

Only clipping has a gradient. The policy cannot change the duration of a clip, so a speech rate has none; and that of a
silence would teach to fill pauses with noise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.rewards.audio import is_usable
from f5_tts.rewards.clip_losses import clip_losses
from f5_tts.rewards.measures import (
    FULL_SCALE,
    WINDOW_S,
    clicks_per_second,
    clipped_share,
    f0_spread,
    longest_silence,
    speech_rate,
)
from f5_tts.types import RewardInput


class Guard(ABC):
    """Base class of rewards in [0, 1] with component `ok`; an empty, silent or non-finite clip scores 0."""

    component = "ok"

    def score(self, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]:
        """Score each clip; clips without usable audio get 0."""
        usable = [is_usable(item.audio, item.sample_rate) for item in inputs]
        return torch.tensor([self.score_clip(item) if good else 0.0 for item, good in zip(inputs, usable, strict=True)])

    @abstractmethod
    def score_clip(self, item: RewardInput) -> float:
        """Score a clip that has usable audio."""


class SpeechRate(Guard):
    """Reward for a speech rate within [low, high], in letters and digits per second, silence included.

    Outside the range the score is the ratio to the nearer bound. Where a prompt was cut from the clip, its duration
    counts too, because its words are in the text. The score is NaN for a text without letters.
    """

    needs_words = True

    def __init__(self, low: float = 4.0, high: float = 25.0) -> None:
        require(0 < low <= high, f"speech_rate: low={low}, high={high} must be above 0 and in this order")
        self.low, self.high = low, high

    def score_clip(self, item: RewardInput) -> float:
        """Score the speech rate of a clip."""
        rate = speech_rate(item)
        return rate if math.isnan(rate) else min(1.0, rate / self.low, self.high / rate)


class F0Spread(Guard):
    """Reward against monotone speech: 1 from an F0 spread of `low` semitones on, else the ratio to it.

    The score is NaN for a clip with too few voiced frames.
    """

    def __init__(self, low: float = 1.5) -> None:
        require(low > 0, f"f0_spread: low={low} must be above 0 semitones")
        self.low = low

    def score_clip(self, item: RewardInput) -> float:
        """Score the F0 spread of a clip."""
        spread = f0_spread(item.audio.detach().float().cpu(), item.sample_rate)
        return spread if math.isnan(spread) else min(1.0, spread / self.low)


class Clicks(Guard):
    """Reward for clips without clicks: 1 up to `most` per second, else `most` / their number per second."""

    def __init__(self, most: float = 1.0) -> None:
        require(most > 0, f"clicks: most={most} must be above 0 per second")
        self.most = most

    def score_clip(self, item: RewardInput) -> float:
        """Score the clicks of a clip."""
        return self.most / max(self.most, clicks_per_second(item.audio.detach().float().cpu(), item.sample_rate))


class LongSilence(Guard):
    """Reward for short silences, at the ends of the clip included.

    The score is 1 if the longest silence lasts at most `most_s` seconds, else `most_s` / its duration.
    """

    def __init__(self, most_s: float = 0.6) -> None:
        require(most_s > 0, f"long_silence: most_s={most_s} must be above 0")
        self.most_s = most_s

    def score_clip(self, item: RewardInput) -> float:
        """Score the longest silence of a clip."""
        return min(1.0, self.most_s / max(longest_silence(item.audio, item.sample_rate), WINDOW_S))


class Clipping(Guard):
    """Reward for clips without clipped samples: 1 without any, falling linearly to 0 at a share of `worst`."""

    takes = "wave"

    def __init__(self, worst: float = 0.01) -> None:
        require(0 < worst <= 1, f"clipping: worst={worst} must be a share above 0")
        self.worst = worst

    @staticmethod
    def loss_mib(seconds: float, num_clips: int) -> float:
        """Return the memory of the loss, in MiB: nothing beside that of the vocoder."""
        return 0.0

    def score_clip(self, item: RewardInput) -> float:
        """Score the share of clipped samples of a clip."""
        return max(0.0, 1.0 - clipped_share(item.audio) / self.worst)

    def loss(self, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]:
        """Compute the mean excess of each clip's amplitude over full scale, divided by `worst`.

        Differentiable in the waveform: 0 without clipped samples, 1 for a share of `worst` at twice full scale. NaN for
        an unusable clip.
        """
        return clip_losses(
            [item.audio if is_usable(item.audio, item.sample_rate) else None for item in inputs],
            lambda clip, _: (clip.abs() - FULL_SCALE).clamp(min=0).mean() / self.worst,
        )


def require(fits: bool, message: str) -> None:
    """Raise ValueError with this message if a condition is false."""
    if not fits:
        raise ValueError(message)
