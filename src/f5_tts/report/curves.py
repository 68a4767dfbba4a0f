"""Curves of runs: which metrics the report shows, smoothed, with their spread and the alarms."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from f5_tts.report.charts import Chart, Line, Numbers
from f5_tts.report.evaluation import MEASURED

Row = Mapping[str, Any]  # metrics of one update: numbers; None where a value was not finite
Runs = Mapping[str, Sequence[Row]]  # rows by title of the run
Seeds = Mapping[str, Sequence[str]]  # titles of the runs of several seeds, by the title of their line
ALARM = "health/alarm_"
HALF_WIDTH = "_ci95"  # end of the names of half the width of a metric's 95 % interval
OF_VALIDATIONS = ("eval/", "judge/", "forgot/")  # beginnings of their names; others have an interval, too
NO_CURVE = ("/cer", "/repeat_rate", "/leak_rate", "/rtf", "_ema", HALF_WIDTH)  # ends of names of validations
HEALTH = "Health"
HEALTH_METRICS = ("grad_norm", "group/reward_std_mean", "frac_reward_zero_std", "policy/sigma_mean", "ratio/max_dev")
MEANINGS = {  # of the alarms of train/alarms.py
    "sigma_collapsed": "the samples of a group hardly differed any more",
    "ratio_out_of_range": "the policy was far from the one that drew the samples",
    "kl_out_of_range": "the policy drifted away from its reference",
    "reward_too_large": "rewards were so large that nothing was learned",
    "no_spread": "all samples of every group had the same score, so that nothing was learned",
    "reward_hacked": "the reward rose while a judge or the voice got worse: take model_best.pt",
    "less_natural": "fewer errors, and less natural speech: listen to the clips",
}
TITLES = {
    "reward/mean": "reward, the weighted sum",
    "loss": "loss",
    "loss/kl": "distance to the reference",
    "eval/sim": "similarity to the prompt's voice",
    "eval/wer": "error rate by pocketsphinx",
    "judge/wer": "error rate by Whisper",
    "eval/mos": "MOS by DistillMOS",
    "grad_norm": "norm of the gradient",
    "group/reward_std_mean": "deviation of the reward within a group",
    "frac_reward_zero_std": "samples whose group scored the same",
    "policy/sigma_mean": "standard deviation of the policy",
    "ratio/max_dev": "largest distance of the ratio from 1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """Alarm of a run, and the updates at which it was active."""

    run: str
    name: str
    first: int
    last: int

    @property
    def description(self) -> str:
        """Say what it means, and when it was active."""
        when = f"update {self.first}" if self.first == self.last else f"updates {self.first} to {self.last}"
        return f"{MEANINGS.get(self.name, 'an alarm of another version')} ({when})"


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveGroup:
    """Charts that belong together."""

    title: str
    note: str
    charts: Sequence[Chart]


def curve_groups(runs: Runs, seeds: Seeds | None = None) -> list[CurveGroup]:
    """Build the charts of all runs; groups without a chart are left out.

    Args:
        seeds: the lines, each with the titles of the runs that it is a mean of; None: a line for each run.
    """
    lines = seeds or {title: [title] for title in runs}
    names = list(dict.fromkeys(name for rows in runs.values() for row in rows for name in row))
    judged = [name for name in names if is_validated(name, names) and not name.endswith(NO_CURVE)]
    measured = [name for name in judged if name.partition("/")[2] in MEASURED]
    judged = [name for name in judged if name not in measured]
    scores = [name for name in names if re.fullmatch("rewards/.+/mean", name)]
    plain = {title: rows for title, rows in runs.items() if not any("reward/mean" in row for row in rows)}
    failed = [name for name in names if name.startswith("health/") and not name.startswith(ALARM)]
    failed = [name for name in failed if any(row.get(name) for rows in runs.values() for row in rows)]
    per_run = [chart for title in lines for chart in metric_charts(runs, ["reward/mean"], lines, title)]
    groups = [
        CurveGroup(
            title="Held-out judges",
            note="Validations, on texts that the run did not train on. The bands are 95 % intervals.",
            charts=metric_charts(runs, judged, lines),
        ),
        CurveGroup(
            title="Rewards",
            note="What the training maximizes. Lines are moving averages, dots single updates, bands one standard "
            "deviation over the samples.",
            charts=[*per_run, *metric_charts(runs, scores, lines)],
        ),
        CurveGroup(
            title="Naturalness",
            note="Measured of the same clips by rules. Neither more nor less is better: compare with recordings.",
            charts=metric_charts(runs, measured, lines),
        ),
        CurveGroup(
            title="Distance to the reference",
            note="How far the model is from the one that the run began with.",
            charts=metric_charts(runs, ["loss/kl"], lines),
        ),
        CurveGroup(title="Loss", note="Of runs without rewards.", charts=metric_charts(plain, ["loss"], lines)),
        CurveGroup(
            title=HEALTH,
            note="What tells early that a run goes wrong.",
            charts=metric_charts(runs, [*HEALTH_METRICS, *failed], lines),
        ),
    ]
    return [group for group in groups if group.charts]


def metric_charts(runs: Runs, names: Iterable[str], seeds: Seeds, only: str | None = None) -> list[Chart]:
    """Draw a chart for each metric that a run has; `only` leaves out the other lines, whose units differ."""
    charts = []
    for name in names:
        shown = {title: [run for run in group if has_curve(name, runs.get(run, ()))] for title, group in seeds.items()}
        lines = [
            line
            for index, title in enumerate(seeds)
            if only in (None, title)
            for line in mean_lines(title, [line_of(name, run, index, runs[run]) for run in shown[title]])
        ]
        if lines:
            title = title_of(name, runs) + (f" of {only}" if only and len(seeds) > 1 else "")
            drawn = [run for group, found in shown.items() if only in (None, group) for run in found]
            alarms = [(float(a.first), f"{a.name} of {a.run}") for a in alarms_of(runs) if a.run in drawn]
            charts.append(Chart(title=title, metric=name, lines=lines, alarms=alarms))
    return charts


def has_curve(name: str, rows: Sequence[Row]) -> bool:
    """Check whether a run has a value of a curve."""
    return any(name in row for row in rows if is_shown(name, row))


def mean_lines(title: str, lines: Sequence[Line]) -> list[Line]:
    """Return the mean of the lines of several seeds and their standard deviation, at the updates that all of them have.

    Lines that have no update in common, and the line of one run, are returned as they are.
    """
    shared = reduce(np.intersect1d, [line.x for line in lines]) if len(lines) > 1 else np.array([])
    if not len(shared):
        return list(lines)
    at = [np.isin(line.x, shared) for line in lines]
    values = np.stack([line.y[kept] for line, kept in zip(lines, at, strict=True)])
    single = [line.dots[kept] for line, kept in zip(lines, at, strict=True) if line.dots is not None]
    mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
    dots = np.mean(single, axis=0) if single else None
    return [Line(name=title, color=lines[0].color, x=shared, y=mean, spread=spread, dots=dots)]


def is_validated(name: str, names: Container[str]) -> bool:
    """Check whether a metric comes from validations."""
    return name.startswith(OF_VALIDATIONS) or f"{name}{HALF_WIDTH}" in names


def is_shown(name: str, row: Row) -> bool:
    """Check whether a row has a value of a curve: row 0, a validation before the run, has those of judges alone."""
    return row["update"] > 0 or is_validated(name, row)


def title_of(name: str, runs: Runs) -> str:
    """Return the title of a metric; the scores of rewards that are differentiated are losses."""
    if match := re.fullmatch("rewards/(.+)/mean", name):
        is_loss = any(f"reward/{match[1]}.loss" in row for rows in runs.values() for row in rows)
        return f"loss of {match[1]} (lower is better)" if is_loss else match[1]
    if name.startswith("forgot/"):
        return f"{title_of(name.removeprefix('forgot/'), runs)}, on the second list"
    if (measure := name.partition("/")[2]) in MEASURED:
        measure_title, _, unit = MEASURED[measure]
        return f"{measure_title}, {unit.strip()}" if unit else measure_title
    recognizer = name.removesuffix("/wer")
    return TITLES.get(name, f"error rate by {recognizer}" if recognizer != name else name)


def line_of(name: str, title: str, color: int, rows: Sequence[Row]) -> Line:
    """Build the line of a metric: judges' values as they are, others as a moving average."""
    last = {row["update"]: row for row in rows if name in row and is_shown(name, row)}  # of an update done twice
    updates = sorted(last)
    x, y = np.array(updates, float), column(last, updates, name)
    if any(is_validated(name, row) for row in last.values()):
        return Line(name=title, color=color, x=x, y=y, spread=column(last, updates, f"{name}{HALF_WIDTH}"))
    deviation = re.sub("/mean$", "/std", name)
    has_spread = deviation != name and any(deviation in row for row in rows)
    spread = smoothed(column(last, updates, deviation)) if has_spread else None
    return Line(name=title, color=color, x=x, y=smoothed(y), spread=spread, dots=y)


def column(rows: Mapping[int, Row], updates: Sequence[int], name: str) -> Numbers:
    """Return the values of a metric; NaN where it is missing or was not finite."""
    return np.array([np.nan if rows[update].get(name) is None else rows[update][name] for update in updates], float)


def smoothed(values: Numbers) -> Numbers:
    """Compute a centered moving average over a tenth of the run, at least five updates, of the finite values.

    At the edges the window is truncated.
    """
    half, finite, places = max(2, len(values) // 20), np.isfinite(values), np.arange(len(values))
    sums = np.concatenate([[0], np.cumsum(np.where(finite, values, 0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    start, end = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    number = counts[end] - counts[start]
    return np.divide(sums[end] - sums[start], number, out=np.full(len(values), np.nan), where=number > 0)


def alarms_of(runs: Runs) -> list[Alarm]:
    """List the alarms of all runs."""
    found = []
    for run, rows in runs.items():
        for name in dict.fromkeys(name for row in rows for name in row if name.startswith(ALARM)):
            active = [row["update"] for row in rows if row.get(name)]
            if active:
                found.append(Alarm(run=run, name=name.removeprefix(ALARM), first=min(active), last=max(active)))
    return found
