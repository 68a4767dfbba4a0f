"""Recognizer of reference recordings without a transcript: the one installed that knows most languages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from f5_tts.infer import whisper
from f5_tts.rewards.asr.funasr_model import REQUIRED_MODULES
from f5_tts.rewards.asr.sensevoice import DEFAULT_DIRECTORY, LANGUAGES, SenseVoice
from f5_tts.rewards.asr.whisper import WhisperWer
from f5_tts.rewards.audio import to_16k_mono

CODES = {"english": "en", "chinese": "zh", "cantonese": "yue", "japanese": "ja", "korean": "ko"}
Recognize = Callable[[Tensor, int, str | None], str]  # waveform, sample rate in Hz, language (None: any) -> transcript


def transcribe(wave: Float[Tensor, " nw"], sample_rate: int, language: str | None = None) -> str:
    """Transcribe a mono waveform of up to 29.7 s; raise ValueError for a language that the recognizer does not know."""
    code = None if language is None else CODES.get(language.lower(), language.lower())
    return find_recognizer()(wave, sample_rate, code).strip()


def find_recognizer() -> Recognize:
    """Load the first of: the largest Whisper of the hub's cache, SenseVoiceSmall, and Whisper tiny.en."""
    if (folder := cached_weights()) is not None:
        return partial(hear_with_whisper, cached_whisper(folder))
    if is_sensevoice_installed():
        return hear_with_sensevoice
    whisper.general_whisper()
    return hear_english


def cached_weights() -> Path | None:
    """Find the largest Whisper for faster-whisper in the hub's cache, one of many languages first; None without any."""
    from huggingface_hub.constants import HF_HUB_CACHE  # takes a second to import

    if find_spec("faster_whisper") is None:
        return None
    found = list(Path(HF_HUB_CACHE).glob("models--*faster-*whisper-*/snapshots/*/model.bin"))
    best = max(found, key=lambda path: (not path.parts[-4].endswith(".en"), path.stat().st_size), default=None)
    return None if best is None else best.parent


@cache
def cached_whisper(folder: Path) -> WhisperWer:
    """Load the Whisper of a folder, once."""
    return WhisperWer(str(folder))


def hear_with_whisper(model: WhisperWer, wave: Float[Tensor, " nw"], sample_rate: int, language: str | None) -> str:
    """Transcribe by a Whisper, which finds the language by itself where none is given."""
    check_known(language, model.languages or (), model.title)
    return model.transcribe(to_16k_mono(wave, sample_rate), language or "")


def check_known(language: str | None, known: Sequence[str], title: str) -> None:
    """Raise ValueError for a language that a recognizer does not know; None means any."""
    if language is not None and language not in known:
        raise ValueError(
            f"language={language} cannot be transcribed: {title} knows {', '.join(known)}; give the transcript as "
            "ref_text"
        )


def is_sensevoice_installed() -> bool:
    """Check whether FunASR and, in the folder of `fetch_reward_asr_model`, SenseVoiceSmall are there."""
    return Path(DEFAULT_DIRECTORY).is_dir() and all(find_spec(name) for name in REQUIRED_MODULES)


@cache
def sensevoice() -> SenseVoice:
    """Load SenseVoiceSmall, once."""
    return SenseVoice(Path(DEFAULT_DIRECTORY), "cpu", batch_size=1)


def hear_with_sensevoice(wave: Float[Tensor, " nw"], sample_rate: int, language: str | None) -> str:
    """Transcribe by SenseVoiceSmall; raise ValueError for a language that it does not know."""
    check_known(language, LANGUAGES[1:], "SenseVoiceSmall")
    return sensevoice().transcribe([wave], sample_rate, [language or "auto"])[0]


def hear_english(wave: Float[Tensor, " nw"], sample_rate: int, language: str | None) -> str:
    """Transcribe by Whisper tiny.en; raise ValueError for another language."""
    whisper.check_language(language)
    return whisper.transcribe(wave, sample_rate)
