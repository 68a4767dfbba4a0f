"""Rewards that notice what error rate and similarity forgive: haste, long silence, clipping. No model, no reference.

Each is 1 within its tolerance and falls towards 0 outside. With weight 0 one is only looked at, or used in a gate.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.rewards.asr.error_rate import normalize
from f5_tts.rewards.audio import is_usable
from f5_tts.types import RewardInput

WINDOW_S = 0.02  # over which loudness is taken
QUIET_DB = -40.0  # below the clip's loudest window: silence
FULL_SCALE = 0.999  # from here on a sample counts as cut off


class Guard(ABC):
    """Scores in [0, 1], component `ok`; a clip that is empty, silent or not finite gets 0."""

    component = "ok"

    def score(self, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]:
        usable = [is_usable(item.audio, item.sample_rate) for item in inputs]
        return torch.tensor([self.score_clip(item) if good else 0.0 for item, good in zip(inputs, usable, strict=True)])

    @abstractmethod
    def score_clip(self, item: RewardInput) -> float:
        """Of a clip that holds sound."""


class SpeechRate(Guard):
    """Letters and digits of the text a second, silence included: 1 from `low` to `high`, outside the ratio to the
    nearer bound. Where a prompt was cut from the clip its seconds count too, as its words do. NaN for a text without
    letters.
    """

    def __init__(self, low: float = 4.0, high: float = 25.0) -> None:
        require(0 < low <= high, f"speech_rate: low={low}, high={high} must be above 0 and in this order")
        self.low, self.high = low, high

    def score_clip(self, item: RewardInput) -> float:
        samples = item.audio.numel() + (0 if item.prompt_audio is None else item.prompt_audio.numel())
        letters = len(normalize(item.text).replace(" ", ""))
        rate = letters * item.sample_rate / samples
        return min(1.0, rate / self.low, self.high / rate) if letters else math.nan


class LongSilence(Guard):
    """The longest silence within a clip, its ends included: 1 up to `most_s` seconds, then `most_s` over its length."""

    def __init__(self, most_s: float = 0.6) -> None:
        require(most_s > 0, f"long_silence: most_s={most_s} must be above 0")
        self.most_s = most_s

    def score_clip(self, item: RewardInput) -> float:
        return min(1.0, self.most_s / max(longest_silence(item.audio, item.sample_rate), WINDOW_S))


class Clipping(Guard):
    """Samples cut off at full scale: 1 for none, 0 from a share of `worst` on."""

    def __init__(self, worst: float = 0.01) -> None:
        require(0 < worst <= 1, f"clipping: worst={worst} must be a share above 0")
        self.worst = worst

    def score_clip(self, item: RewardInput) -> float:
        clipped_share = (item.audio.abs() >= FULL_SCALE).float().mean().item()
        return max(0.0, 1.0 - clipped_share / self.worst)


def require(fits: bool, message: str) -> None:
    if not fits:
        raise ValueError(message)


def longest_silence(clip: Float[Tensor, " nw"], sample_rate: int) -> float:
    """Seconds of the longest run of windows QUIET_DB below the loudest; a last part of a window is left out."""
    power = clip.detach().float().unfold(0, *[round(WINDOW_S * sample_rate)] * 2).square().mean(dim=1)
    quiet = power < power.max() * 10 ** (QUIET_DB / 10)
    ends = torch.cat([torch.tensor([-1]), (~quiet).nonzero().flatten().cpu(), torch.tensor([len(quiet)])])
    return (ends.diff().max().item() - 1) * WINDOW_S
