"""Table of the report: a row for each metric, and a column for each model, which may have been judged by others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from f5_tts.eval.results import Result
from f5_tts.eval.statistics import Interval, Score, bootstrap_interval, extra_metric, similarities, word_errors
from f5_tts.report.evaluation import MEASURED
from f5_tts.report.table import (
    Table,
    all_rewards,
    asr_position,
    asr_title,
    decimals,
    judge_title,
    other_judges,
    percent,
)

MISSING = "\N{EN DASH}"
RECORDINGS = "recordings"  # title of the column of what a perfect model would get
Results = Mapping[str, Result]  # by title of the model
Cell = Callable[[Result], str]


def by_metric(results: Results) -> Table:
    """Build the table, with a last column for the recordings of the test set where they were measured."""
    rows = [*error_rows(results), *judge_rows(results), *measure_rows(results)]
    rows.append(["guidance", *(guidance_cell(result) for result in results.values()), ""])
    rows.append(["clips", *(str(len(first_scores(result))) for result in results.values()), ""])
    header = ["", *results, RECORDINGS]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return Table(
        caption="Held-out texts in voices that no training used, with 95 % intervals over items",
        header=header,
        rows=rows,
    )


def error_rows(results: Results) -> list[list[str]]:
    """Build the rows of the recognizers."""
    rewards = all_rewards(results.values())
    names = sorted(dict.fromkeys(name for result in results.values() for name in result.scores), key=asr_position)
    rows = []
    for name in names:
        judged = {title: result for title, result in results.items() if name in result.scores}
        cells = [error_cell(result, name) if title in judged else MISSING for title, result in results.items()]
        first = next(iter(judged.values()))
        floor = f"{100 * first.floors[name]:.1f} %" if name in first.floors else ""
        rows.append([f"error rate by {asr_title(first, name, rewards)}", *cells, floor])
    return rows


def error_cell(result: Result, name: str) -> str:
    """Format the error rate by a recognizer."""
    return percent(bootstrap_interval(result.unseen(name), word_errors))


def judge_rows(results: Results) -> list[list[str]]:
    """Build the rows of the speaker judges and of the other ones."""
    rewards = all_rewards(results.values())
    speakers = dict.fromkeys(result.speaker_judge for result in results.values())
    judges = dict.fromkeys(name for result in results.values() for name in other_judges(result))
    rows = [
        [judge_title(name, rewards), *(similarity_cell(result, name) for result in results.values()), ""]
        for name in speakers
    ]
    rows += [
        [judge_title(name, rewards), *(score_cell(result, name) for result in results.values()), ""] for name in judges
    ]
    return rows


def similarity_cell(result: Result, name: str) -> str:
    """Format the similarity by a speaker judge."""
    known = name == result.speaker_judge
    return decimals(bootstrap_interval(first_scores(result), similarities)) if known else MISSING


def score_cell(result: Result, name: str) -> str:
    """Format the mean score of a judge."""
    known = name in other_judges(result)
    return decimals(bootstrap_interval(first_scores(result), extra_metric(name))) if known else MISSING


def measure_rows(results: Results) -> list[list[str]]:
    """Build the rows of what was measured of clips and recordings without a model."""
    rows = []
    for name, (title, digits, unit) in MEASURED.items():
        cells = [measure_cell(result, name, digits) for result in results.values()]
        if any(cell != MISSING for cell in cells):
            known = [result.recordings[name] for result in results.values() if name in result.recordings]
            recordings = format(known[0], digits) if known else ""
            rows.append([f"{title} ({unit.strip()})" if unit else title, *cells, recordings])
    return rows


def measure_cell(result: Result, name: str, digits: str) -> str:
    """Format the mean of a measure and its interval."""
    scores = first_scores(result)
    if all(math.isnan(score.measures.get(name, math.nan)) for score in scores):
        return MISSING
    return interval_text(bootstrap_interval(scores, extra_metric(name)), digits)


def interval_text(interval: Interval, digits: str) -> str:
    """Format a value and its interval."""
    return f"{interval.value:{digits}} ({interval.low:{digits}} to {interval.high:{digits}})".replace("%", " %")


def guidance_cell(result: Result) -> str:
    """Format the guidance strength."""
    return ", ".join(dict.fromkeys(f"{strength:g}" for strength in result.guidance.values())) or MISSING


def first_scores(result: Result) -> Sequence[Score]:
    """Return the held-out scores by the first recognizer; those of other judges are the same with each."""
    return result.unseen(next(iter(result.scores)))
