"""Scores -> the table of results, the same on the console, in a file and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from f5_tts.eval.statistics import Interval, Score, bootstrap_interval, similarities, word_errors

ASR_TITLES = {
    "pocketsphinx": "by the reward's recogniser (pocketsphinx)",
    "whisper": "by the judge (Whisper tiny.en), which was never a reward",
}
HEADER = ("model", "guidance", "voices", "error rate (95 %)", "similarity (95 %)", "clips")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """What one model did on the voices of one kind."""

    model: str
    guidance: float | int  # strength of classifier-free guidance
    voices: str
    error_rate: Interval
    similarity: Interval
    clips: int

    def cells(self) -> tuple[str, ...]:
        """In the order of `HEADER`."""
        error, voice = percent(self.error_rate), decimals(self.similarity)
        return (self.model, f"{self.guidance:g}", self.voices, error, voice, str(self.clips))


def result_rows(model: str, guidance: float | int, scores: Sequence[Score]) -> list[ResultRow]:
    """One row for the voices never trained on, then one for those seen, where there are scores of the kind."""
    groups = {"never seen": [s for s in scores if not s.seen], "seen": [s for s in scores if s.seen]}
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


def results_table(rows: Sequence[ResultRow], asr: str) -> str:
    """Markdown, with columns wide enough to be read as it stands; `recogniser` is a key of `RECOGNISERS`."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    header, *body = (" | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    rule = " | ".join("-" * w for w in widths)
    return "\n".join([title(asr), "", *(f"| {line} |" for line in (header, rule, *body))]) + "\n"


def title(asr: str) -> str:
    if asr not in ASR_TITLES:
        raise ValueError(f"recogniser is {asr!r}; allowed: {', '.join(ASR_TITLES)}")
    return f"Held-out digit strings, measured {ASR_TITLES[asr]}:"


def percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def decimals(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
