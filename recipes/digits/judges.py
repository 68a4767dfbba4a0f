"""Judges of the digit recipe: how transcripts of digits are read, and naturalness of a part of the clips."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch

from f5_tts.rewards.distill_mos import DistillMos
from f5_tts.types import RewardInput

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HOMOPHONES = {
    "for": "four",
    "fore": "four",
    "to": "two",
    "too": "two",
    "won": "one",
    "ate": "eight",
    "oh": "zero",
    "o": "zero",
}
EVERY = 5  # distance of the clips that DistillMOS scores


def digit_words(text: str, language: str = "en") -> str:
    """Read a text or a transcript as digits (`eval.normaliser`): numerals digit by digit, homophones as digits.

    "Won, for 315." becomes "one four three one five". Other words stay, in lower case, and so count as errors.
    Suppressing numerals in Whisper's output would make its transcripts worse.
    """
    spelled_out = re.sub("[0-9]", lambda numeral: f" {DIGITS[int(numeral[0])]} ", text.lower())
    words: Sequence[str] = re.sub(r"[^\w\s]", " ", spelled_out.replace("'", "")).split()
    return " ".join(HOMOPHONES.get(word, word) for word in words)


class SampledMos:
    """Mean opinion score of every fifth clip of a call, by DistillMOS, in [1, 5]; NaN for the others.

    DistillMOS takes ten times as long as all other judges of the digit recipe.

    Args:
        every: distance of the scored clips in the list; 1 or more.
        judge: what scores them; default: DistillMOS on the CPU.
    """

    component = "mos"

    def __init__(self, every: int = EVERY, judge: DistillMos | None = None):
        if every < 1:
            raise ValueError(f"SampledMos: config.every must be 1 or more, got {every}")
        self.every, self.judge = every, judge or DistillMos()

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        """Score every fifth clip, from the first one on."""
        scores = torch.full((len(inputs),), math.nan)
        scores[:: self.every] = self.judge.score(inputs[:: self.every])["mos"]
        return {"mos": scores}
