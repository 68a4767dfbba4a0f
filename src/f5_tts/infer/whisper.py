"""Transcription of reference recordings by Whisper tiny.en."""

from __future__ import annotations

from functools import cache

from jaxtyping import Float
from torch import Tensor

from f5_tts.rewards.asr.whisper import MAX_CONTEXT_S, Whisper
from f5_tts.rewards.audio import to_16k_mono

LANGUAGES = ("en", "english")  # languages of the weights


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
