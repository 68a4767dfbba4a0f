"""Table that compares models: error rates by each recognizer, speaker similarity and the scores of other judges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from f5_tts.eval.results import Result, labelled
from f5_tts.eval.statistics import Interval, bootstrap_interval, extra_metric, similarities, word_errors

ASR_TITLES = {"whisper": "Whisper tiny.en", "pocketsphinx": "pocketsphinx"}  # whose columns are first, in this order
JUDGE_TITLES = {"mos": "MOS by DistillMOS", "sim_target": "similarity to the recording"}  # by metric


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


def compare(results: Mapping[str, Result], caption: str) -> Table:
    """Build the table of models, by title; all of them have the recognizers and judges of the first one.

    The last row has the error rates on recordings, where they were measured.

    Raises ValueError if there is no model, or if one lacks a recognizer or was measured by another speaker judge.
    """
    if not results:
        raise ValueError("a table of results needs at least one model, found none")
    first = next(iter(results.values()))
    for model, result in results.items():
        check_comparable(model, result, first)
    asr_names, judges, rewards = (
        sorted(first.scores, key=asr_position),
        other_judges(first),
        all_rewards(results.values()),
    )
    errors = [f"error rate by {asr_title(first, name, rewards)}" for name in asr_names]
    scores = [judge_title(name, rewards) for name in (first.speaker_judge, *judges)]
    header = ["model", "guidance", *errors, *scores, "clips"]
    rows = [[model, *cells(result, asr_names, judges)] for model, result in results.items()]
    if first.floors:
        shares = [f"{first.floors[name]:.1%}".replace("%", " %") for name in asr_names]
        rows.append(["recordings", "", *shares, *[""] * (len(scores) + 1)])
    return Table(caption=caption, header=header, rows=rows)


def check_comparable(model: str, result: Result, first: Result) -> None:
    """Raise ValueError unless both results have the same recognizers and the same judges."""
    found, needed = ((sorted(each.scores), each.speaker_judge, other_judges(each)) for each in (result, first))
    if found != needed:
        raise ValueError(f"{model!r} was measured by {found}, the first model by {needed}: evaluate both alike")


def other_judges(result: Result) -> list[str]:
    """List the metrics of judges other than recognizers and the speaker judge."""
    return list(dict.fromkeys(name for score in next(iter(result.scores.values())) for name in score.opinions))


def cells(result: Result, asr_names: Sequence[str], judges: Sequence[str]) -> list[str]:
    """Format the row of a model, without its title.

    Judges' scores do not depend on the recognizer; they are those of the first one.
    """
    heard = result.unseen(asr_names[0])
    errors = [percent(bootstrap_interval(result.unseen(name), word_errors)) for name in asr_names]
    metrics = [similarities, *map(extra_metric, judges)]
    scores = [decimals(bootstrap_interval(heard, metric)) for metric in metrics]
    guidance = f"{result.guidance[asr_names[0]]:g}" if result.guidance else "-"
    return [guidance, *errors, *scores, str(len(heard))]


def all_rewards(results: Iterable[Result]) -> list[str]:
    """List the rewards that any of the models was trained by."""
    return sorted({name for result in results for name in result.rewards})


def asr_position(name: str) -> int:
    """Return the position of a recognizer's column; those without one are last, in the order of the evaluation."""
    return list(ASR_TITLES).index(name) if name in ASR_TITLES else len(ASR_TITLES)


def asr_title(result: Result, name: str, rewards: Sequence[str] = ()) -> str:
    """Return the title of a recognizer, marked as reward if it was one of a model's."""
    return labelled(result.titles.get(name) or ASR_TITLES.get(name, name), name, rewards)


def judge_title(name: str, rewards: Sequence[str] = ()) -> str:
    """Return the title of the score of a speaker judge or of another judge, marked as reward if it was one."""
    title = f"similarity by {name}" if name.endswith("_sim") else JUDGE_TITLES.get(name, name)
    return labelled(title, name, rewards)


def percent(interval: Interval) -> str:
    """Format an error rate and its interval in percent."""
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def decimals(interval: Interval) -> str:
    """Format a score and its interval."""
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
