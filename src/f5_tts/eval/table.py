"""Results table of an evaluation, for the console, a file and the HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from f5_tts.eval.statistics import Interval, Score, bootstrap_interval, similarities, word_errors

ASR_TITLES = {
    "pocketsphinx": "by the reward's recogniser (pocketsphinx)",
    "whisper": "by the judge (Whisper tiny.en), which was never a reward",
}
SIMILARITY_TITLES = {
    "voice_sim": "similarity, by the reward voice_sim",
    "ecapa_sim": "similarity, by the judge ecapa_sim",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """Results of one model on seen or on unseen speakers."""

    model: str
    guidance: float | int  # strength of classifier-free guidance
    voices: str
    error_rate: Interval
    similarity: Interval
    clips: int

    def cells(self) -> tuple[str, ...]:
        """Format the row, in the order of `header`."""
        error, voice = percent(self.error_rate), decimals(self.similarity)
        return (self.model, f"{self.guidance:g}", self.voices, error, voice, str(self.clips))


def result_rows(model: str, guidance: float | int, scores: Sequence[Score]) -> list[ResultRow]:
    """Build a row for unseen speakers and one for seen speakers, each where there are scores."""
    groups = {"unseen": [s for s in scores if not s.seen], "seen": [s for s in scores if s.seen]}
    return [
        ResultRow(
            model=model,
            guidance=guidance,
            voices=voices,
            error_rate=bootstrap_interval(group, word_errors),
            similarity=bootstrap_interval(group, similarities),
            clips=len(group),
        )
        for voices, group in groups.items()
        if group
    ]


def results_table(rows: Sequence[ResultRow], asr: str, speaker_judge: str) -> str:
    """Format the rows as an aligned Markdown table for one recognizer, pocketsphinx or whisper, and a speaker judge."""
    lines = [header(speaker_judge), *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *body = (" | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    rule = " | ".join("-" * w for w in widths)
    return "\n".join([title(asr), "", *(f"| {line} |" for line in (first, rule, *body))]) + "\n"


def header(speaker_judge: str) -> tuple[str, ...]:
    """Return the titles of the columns."""
    return ("model", "guidance", "voices", "error rate (95 %)", f"{similarity_title(speaker_judge)} (95 %)", "clips")


def similarity_title(speaker_judge: str) -> str:
    """Return the title of the similarity, which says whether the digit recipe rewards what measured it."""
    return SIMILARITY_TITLES.get(speaker_judge, f"similarity, by {speaker_judge}")


def title(asr: str) -> str:
    """Return the title of the table; raise ValueError for an unknown recognizer."""
    if asr not in ASR_TITLES:
        raise ValueError(f"recogniser is {asr!r}; allowed: {', '.join(ASR_TITLES)}")
    return f"Held-out digit strings, measured {ASR_TITLES[asr]}:"


def percent(interval: Interval) -> str:
    """Format an error rate and its interval in percent."""
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def decimals(interval: Interval) -> str:
    """Format a similarity and its interval."""
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
