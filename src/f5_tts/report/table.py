"""Table that compares models: error rates by each recognizer, speaker similarity and the scores of other judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from f5_tts.eval.results import Result
from f5_tts.eval.statistics import Interval, bootstrap_interval, extra_metric, similarities, word_errors

ASR_TITLES = {"whisper": "Whisper tiny.en", "pocketsphinx": "pocketsphinx"}  # in the order of their columns
JUDGE_TITLES = {  # by speaker judge, or by metric of another judge
    "voice_sim": "similarity by voice_sim (reward)",
    "ecapa_sim": "similarity by ecapa_sim",
    "mos": "MOS by DistillMOS",
}
HELD_OUT = "Held-out digit strings in voices that no training used, with 95 % intervals over items"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Table of text cells with a caption."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Format the caption and the table, whose columns are aligned."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = [self.header, ["-" * width for width in widths], *self.rows]
        padded = (" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join([f"{self.caption}:", "", *(f"| {line} |" for line in padded)]) + "\n"


def compare(results: Mapping[str, Result]) -> Table:
    """Build the table of models, by title; all of them have the recognizers and judges of the first one.

    Raises ValueError if there is no model, or if one lacks a recognizer or was measured by another speaker judge.
    """
    if not results:
        raise ValueError("a table of results needs at least one model, found none")
    first = next(iter(results.values()))
    for model, result in results.items():
        check_comparable(model, result, first)
    asr_names, judges = sorted(first.scores, key=asr_position), other_judges(first)
    errors = [f"error rate by {ASR_TITLES[name]}" for name in asr_names]
    header = ["model", "guidance", *errors, judge_title(first.speaker_judge), *map(judge_title, judges), "clips"]
    rows = [[model, *cells(result, asr_names, judges)] for model, result in results.items()]
    return Table(caption=HELD_OUT, header=header, rows=rows)


def check_comparable(model: str, result: Result, first: Result) -> None:
    """Raise ValueError unless both results have the same recognizers and the same judges."""
    found, needed = ((sorted(each.scores), each.speaker_judge, other_judges(each)) for each in (result, first))
    if found != needed:
        raise ValueError(f"{model!r} was measured by {found}, the first model by {needed}: evaluate both alike")


def other_judges(result: Result) -> list[str]:
    """List the metrics of judges other than recognizers and the speaker judge."""
    return list(next(iter(result.scores.values()))[0].opinions)


def cells(result: Result, asr_names: Sequence[str], judges: Sequence[str]) -> list[str]:
    """Format the row of a model, without its title.

    Judges' scores do not depend on the recognizer; they are those of the first one.
    """
    heard = result.unseen(asr_names[0])
    errors = [percent(bootstrap_interval(result.unseen(name), word_errors)) for name in asr_names]
    metrics = [similarities, *map(extra_metric, judges)]
    scores = [decimals(bootstrap_interval(heard, metric)) for metric in metrics]
    return [f"{result.guidance[asr_names[0]]:g}", *errors, *scores, str(len(heard))]


def asr_position(name: str) -> int:
    """Return the position of a recognizer's column; raise ValueError for an unknown one."""
    if name not in ASR_TITLES:
        raise ValueError(f"recogniser is {name!r}; allowed: {', '.join(ASR_TITLES)}")
    return list(ASR_TITLES).index(name)


def judge_title(name: str) -> str:
    """Return the title of a judge's score, which says whether the digit recipe rewards what measured it."""
    return JUDGE_TITLES.get(name, name)


def percent(interval: Interval) -> str:
    """Format an error rate and its interval in percent."""
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def decimals(interval: Interval) -> str:
    """Format a score and its interval."""
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
