"""The judge: a recogniser that was never a reward, so that no model can have learnt to please it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from f5_tts.infer.whisper import Whisper
from f5_tts.rewards.audio import is_usable, to_16k_mono

BATCH = 8  # clips recognised at once
CONTEXT_S = 8.0  # what a clip is filled up to; Whisper's own 30 s cost several times as much and hear no better

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


class WhisperJudge:
    """Whisper tiny.en as a judge of digits; forbidden to write numerals, it hears worse."""

    def __init__(self):
        self._whisper = Whisper(CONTEXT_S)

    def transcribe(self, clips: list[Tensor], sample_rate: int) -> list[str]:
        """The words heard in each mono clip, in order, digits spelled out (see `digit_words`).

        A clip's transcript does not depend on the clips beside it. Silent, broken and very short clips give "".
        """
        transcripts = [""] * len(clips)
        usable = [i for i, clip in enumerate(clips) if is_usable(clip, sample_rate)]
        for start in range(0, len(usable), BATCH):
            batch = usable[start : start + BATCH]
            texts = self._whisper.transcribe([to_16k_mono(clips[i], sample_rate) for i in batch])
            for i, text in zip(batch, texts, strict=True):
                transcripts[i] = digit_words(text)
        return transcripts


def digit_words(text: str) -> str:
    """A transcript of digits as lower-case words: numerals digit by digit, homophones as the digits they sound like.

    "Won, for 315." is "one four three one five". Words that are no digits stay, and so count as errors.
    """
    spelled_out = re.sub("[0-9]", lambda numeral: f" {DIGITS[int(numeral[0])]} ", text.lower())
    words: Sequence[str] = re.sub(r"[^\w\s]", " ", spelled_out.replace("'", "")).split()
    return " ".join(HOMOPHONES.get(word, word) for word in words)
