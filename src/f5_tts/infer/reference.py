"""Reference recordings with their transcripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from f5_tts.data.audio import load_at_own_rate
from f5_tts.data.resample import resample
from f5_tts.infer.recognizer import transcribe
from f5_tts.infer.silence import cut_at_pause, level_db, trim_silence
from f5_tts.infer.upstream_trim import trim_as_upstream

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
    trim: str = "ours",
) -> Reference:
    """Read a reference recording of any sample rate, trimmed (`trim_reference`); transcribe it if `text` is empty.

    Raises ValueError for a recording that is too short or too quiet, or without recognizable words.
    """
    trimmed, rate = trim_reference(path, log, trim)
    wave = resample(trimmed, rate, sample_rate)
    words = text.strip() or transcribe_reference(path, wave, sample_rate, asr)
    if not text.strip():
        log(f"{path} says: {words}")
    return Reference(wave=wave, sample_rate=sample_rate, text=words)


def trim_reference(
    path: str | Path, log: Callable[[str], object] = print, trim: str = "ours"
) -> tuple[Float[Tensor, " nw"], int]:
    """Read a recording, trim it at its own sample rate, and return it with that rate in Hz.

    `ours` cuts silence at its ends relative to the loudest part, and a recording longer than 12 s at the quietest
    moment between 6 and 12 s. `upstream` has the rules of F5-TTS (`trim_as_upstream`). A message to `log` says that the
    end was cut.

    Raises ValueError for a recording that is too short or too quiet.
    """
    recording, rate = load_at_own_rate(path)
    loudest = float(level_db(recording, rate).max())
    if loudest < MIN_LEVEL_DB:
        raise ValueError(f"{path} is nearly silent: its loudest part has {loudest:.0f} dB of full scale")
    wave = trim_as_upstream(recording, rate) if trim == "upstream" else trim_as_ours(recording, rate)
    seconds, rest = len(wave) / rate, len(trim_silence(recording, rate, MARGIN_S)) / rate
    if seconds < MIN_REFERENCE_S:
        advice = "; infer.trim=ours accepts quieter ones" if trim == "upstream" else ""
        raise ValueError(
            f"{path} holds {seconds:.2f} s of sound; a reference needs {MIN_REFERENCE_S} s, better 3 to 12 s{advice}"
        )
    if rest > MAX_REFERENCE_S:
        log(
            f"{path} is too long: {seconds:.1f} s of its start are used, and ref_text must be the transcript of these "
            "alone"
        )
    return wave, rate


def trim_as_ours(recording: Float[Tensor, " nw"], rate: int) -> Float[Tensor, " _"]:
    """Cut silence at both ends, and a long recording at a pause."""
    return cut_at_pause(trim_silence(recording, rate, MARGIN_S), rate, MAX_REFERENCE_S)


def transcribe_reference(path: str | Path, wave: Tensor, sample_rate: int, asr: Callable[[Tensor, int], str]) -> str:
    """Transcribe the recording; the result is to be shown, because a wrong word degrades the synthesis."""
    try:
        text = asr(wave, sample_rate).strip()
    except ImportError as error:
        raise ImportError(f"{path} has no ref_text, and {error}; or give its text as ref_text") from error
    if not text:
        raise ValueError(f"no words were recognized in {path}: give its text as ref_text")
    return text
