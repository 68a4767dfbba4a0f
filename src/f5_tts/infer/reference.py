"""Reference recordings with their transcripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from f5_tts.data.audio import load_audio
from f5_tts.infer.silence import cut_at_pause, level_db, trim_silence
from f5_tts.infer.whisper import transcribe

MIN_REFERENCE_S, MAX_REFERENCE_S = 0.3, 12.0  # allowed duration of the part that is used
MARGIN_S = 0.05  # silence kept at both ends
MIN_LEVEL_DB = -60.0  # minimum level of the loudest 10 ms window; anything below is noise


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Trimmed reference recording and its transcript."""

    wave: Float[Tensor, " nw"]  # at its recorded level
    sample_rate: int  # Hz
    text: str
    is_complete: bool = False  # the text is the whole prompt: no full stop is added

    @property
    def seconds(self) -> float:
        """Return the duration in seconds."""
        return len(self.wave) / self.sample_rate

    @property
    def rms(self) -> float:
        """Return the root mean square of the samples."""
        return float(self.wave.square().mean().sqrt())


def read_reference(
    path: str | Path,
    text: str,
    sample_rate: int,
    asr: Callable[[Tensor, int], str] = transcribe,
    log: Callable[[str], object] = print,
) -> Reference:
    """Read a reference recording of any sample rate, trimmed; transcribe it if `text` is empty.

    Raises ValueError for a recording that is too short or too quiet, or without recognizable words.
    """
    wave = trim_reference(path, sample_rate, log)
    words = text.strip() or transcribe_reference(path, wave, sample_rate, asr)
    if not text.strip():
        log(f"{path} says: {words}")
    return Reference(wave=wave, sample_rate=sample_rate, text=words)


def trim_reference(path: str | Path, sample_rate: int, log: Callable[[str], object] = print) -> Float[Tensor, " nw"]:
    """Read a recording and trim it.

    Silence at its ends is trimmed. A recording longer than 12 s is cut at the quietest moment between 6 and 12 s, with
    a message to `log`. F5-TTS looks for pauses of a second, then of a tenth, and cuts at 12 s if it finds none.

    Raises ValueError for a recording that is too short or too quiet.
    """
    recording = load_audio(path, sample_rate)
    loudest = float(level_db(recording, sample_rate).max())
    if loudest < MIN_LEVEL_DB:
        raise ValueError(f"{path} is nearly silent: its loudest part has {loudest:.0f} dB of full scale")
    trimmed = trim_silence(recording, sample_rate, MARGIN_S)
    wave = cut_at_pause(trimmed, sample_rate, MAX_REFERENCE_S)
    seconds = len(wave) / sample_rate
    if seconds < MIN_REFERENCE_S:
        raise ValueError(
            f"{path} holds {seconds:.2f} s of sound; a reference needs {MIN_REFERENCE_S} s, better 3 to 12 s"
        )
    if len(wave) < len(trimmed):
        log(
            f"{path} is too long: its first {seconds:.1f} s are used, and ref_text must be the transcript of these "
            "alone"
        )
    return wave


def transcribe_reference(path: str | Path, wave: Tensor, sample_rate: int, asr: Callable[[Tensor, int], str]) -> str:
    """Transcribe the recording; the result is to be shown, because a wrong word degrades the synthesis."""
    try:
        text = asr(wave, sample_rate).strip()
    except ImportError as error:
        raise ImportError(f"{path} has no ref_text, and {error}; or give its text as ref_text") from error
    if not text:
        raise ValueError(f"no words were recognized in {path}: give its text as ref_text")
    return text
