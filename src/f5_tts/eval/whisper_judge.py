"""Whisper as evaluation-only recognizer, which is never a reward, so that no policy can be optimized for it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from f5_tts.infer.whisper import Whisper
from f5_tts.rewards.audio import is_usable, to_16k_mono

BATCH = 8  # clips per batch
CONTEXT_S = 8.0  # padded length; Whisper's own 30 s take several times as long and are no more accurate

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
    """Whisper tiny.en as recognizer of digits.

    Suppressing numerals in its output would make its transcripts worse.
    """

    def __init__(self):
        self._whisper = Whisper(CONTEXT_S)

    def transcribe(self, clips: list[Tensor], sample_rate: int) -> list[str]:
        """Transcribe mono clips, in order, with digits spelled out (see `digit_words`).

        A transcript does not depend on the other clips. Silent, non-finite and very short clips get "".
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
    """Normalize a transcript of digits: numerals digit by digit, homophones as digits, in lower case.

    "Won, for 315." becomes "one four three one five". Other words stay and so count as errors.
    """
    spelled_out = re.sub("[0-9]", lambda numeral: f" {DIGITS[int(numeral[0])]} ", text.lower())
    words: Sequence[str] = re.sub(r"[^\w\s]", " ", spelled_out.replace("'", "")).split()
    return " ".join(HOMOPHONES.get(word, word) for word in words)
