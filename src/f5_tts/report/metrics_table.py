"""Table of the report: a row for each metric, and a column for each model, which may have been judged by others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from f5_tts.eval.results import Result
from f5_tts.eval.statistics import Interval, RatioMetric, Score, extra_metric, seeds_interval, similarities
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
Seeds = Sequence[Result]  # of training runs of one model that differ by their seed; mostly one
Results = Mapping[str, Seeds]  # by title of the model


def by_metric(results: Results) -> Table:
    """Build the table, with a last column for the recordings of the test set where they were measured."""
    rows = [*error_rows(results), *judge_rows(results), *measure_rows(results)]
    rows.append(["guidance", *(guidance_cell(seeds) for seeds in results.values()), ""])
    rows.append(["clips", *(str(sum(len(first_scores(result)) for result in seeds)) for seeds in results.values()), ""])
    if several := any(len(seeds) > 1 for seeds in results.values()):
        rows.append(["training runs", *(str(len(seeds)) for seeds in results.values()), ""])
    header = ["", *results, RECORDINGS]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return Table(
        caption=f"On the test set, with 95 % intervals over items{' and seeds' if several else ''}",
        header=header,
        rows=rows,
    )


def error_rows(results: Results) -> list[list[str]]:
    """Build the rows of the recognizers."""
    rewards = all_rewards(all_seeds(results))
    names = sorted(dict.fromkeys(name for seeds in results.values() for name in seeds[0].scores), key=asr_position)
    rows = []
    for name in names:
        first = next(seeds[0] for seeds in results.values() if name in seeds[0].scores)
        cells = [error_cell(seeds, name) for seeds in results.values()]
        floor = f"{100 * first.floors[name]:.1f} %" if name in first.floors else ""
        rows.append([f"error rate by {asr_title(first, name, rewards)}", *cells, floor])
    return rows


def error_cell(seeds: Seeds, name: str) -> str:
    """Format the error rate by a recognizer."""
    known = name in seeds[0].scores
    return percent(seeds_interval([result.unseen(name) for result in seeds])) if known else MISSING


def judge_rows(results: Results) -> list[list[str]]:
    """Build the rows of the speaker judges and of the other ones."""
    rewards = all_rewards(all_seeds(results))
    speakers = dict.fromkeys(seeds[0].speaker_judge for seeds in results.values())
    judges = dict.fromkeys(name for seeds in results.values() for name in other_judges(seeds[0]))
    rows = [
        [judge_title(name, rewards), *(similarity_cell(seeds, name) for seeds in results.values()), ""]
        for name in speakers
    ]
    rows += [
        [judge_title(name, rewards), *(score_cell(seeds, name) for seeds in results.values()), ""] for name in judges
    ]
    return rows


def similarity_cell(seeds: Seeds, name: str) -> str:
    """Format the similarity by a speaker judge."""
    return decimals(measured(seeds, similarities)) if name == seeds[0].speaker_judge else MISSING


def score_cell(seeds: Seeds, name: str) -> str:
    """Format the mean score of a judge."""
    return decimals(measured(seeds, extra_metric(name))) if name in other_judges(seeds[0]) else MISSING


def measure_rows(results: Results) -> list[list[str]]:
    """Build the rows of what was measured of clips and recordings without a model."""
    rows = []
    for name, (title, digits, unit) in MEASURED.items():
        cells = [measure_cell(seeds, name, digits) for seeds in results.values()]
        if any(cell != MISSING for cell in cells):
            known = [result.recordings[name] for result in all_seeds(results) if name in result.recordings]
            recordings = format(known[0], digits).replace("%", " %") if known else ""
            rows.append([f"{title} ({unit.strip()})" if unit else title, *cells, recordings])
    return rows


def measure_cell(seeds: Seeds, name: str, digits: str) -> str:
    """Format the mean of a measure and its interval."""
    scores = [score for result in seeds for score in first_scores(result)]
    if all(math.isnan(score.measures.get(name, math.nan)) for score in scores):
        return MISSING
    return interval_text(measured(seeds, extra_metric(name)), digits)


def interval_text(interval: Interval, digits: str) -> str:
    """Format a value and its interval."""
    return f"{interval.value:{digits}} ({interval.low:{digits}} to {interval.high:{digits}})".replace("%", " %")


def guidance_cell(seeds: Seeds) -> str:
    """Format the guidance strengths."""
    found = dict.fromkeys(f"{strength:g}" for result in seeds for strength in result.guidance.values())
    return ", ".join(found) or MISSING


def measured(seeds: Seeds, metric: RatioMetric) -> Interval:
    """Compute the interval of what does not depend on the recognizer, over items and seeds."""
    return seeds_interval([first_scores(result) for result in seeds], metric)


def first_scores(result: Result) -> Sequence[Score]:
    """Return the held-out scores by the first recognizer; those of other judges are the same with each."""
    return result.unseen(next(iter(result.scores)))


def all_seeds(results: Results) -> list[Result]:
    """List the results of all seeds of all models."""
    return [result for seeds in results.values() for result in seeds]
