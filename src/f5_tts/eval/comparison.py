"""Comparison of two evaluations of the same items, with paired intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from f5_tts.config.schema import EvalConfig
from f5_tts.eval.judges import build_normalizer, item_language
from f5_tts.eval.results import Result
from f5_tts.eval.statistics import (
    RatioMetric,
    Score,
    char_errors,
    extra_metric,
    paired_interval,
    similarities,
    word_errors,
)
from f5_tts.eval.test_set import EvalItem


def check_comparable(before: Result, items: Iterable[EvalItem], settings: EvalConfig) -> None:
    """Raise ValueError if an earlier evaluation has none of the items, or others of their names."""
    known = {score.id: score.text for scores in before.scores.values() for score in scores}
    shared = [item for item in items if item.id in known]
    if not shared:
        raise ValueError(f"eval.against: the evaluation of {before.ckpt} has none of the items; they are matched by id")
    normalize = build_normalizer(settings)
    differing = [
        item.id
        for item in shared
        if known[item.id] not in ("", normalize(item.text, item_language(item, settings)))  # earlier results have none
    ]
    if differing:
        raise ValueError(others(differing))


def describe_change(before: Result, after: Result) -> list[str]:
    """Say how error rates and other scores differ on the items of unseen speakers that two evaluations have.

    Recognizers are compared where both have one of the same name and title, similarities where the encoder is the
    same, other judges and measures where both have them.

    Raises ValueError if an item has another text, or another number of takes.
    """
    names = [
        name for name in after.scores if name in before.scores and before.titles.get(name) == after.titles.get(name)
    ]
    if not names:
        return [f"nothing to compare with {before.ckpt}: no recogniser judged both"]
    lines = []
    for name in names:
        old, new = common(before.unseen(name), after.unseen(name))
        for title, metric in (("word error rate", word_errors), ("character error rate", char_errors)):
            lines.append(f"{title} by {after.title(name)}: {change(old, new, metric, percent=True)}")
    old, new = common(before.unseen(names[0]), after.unseen(names[0]))
    if before.speaker_judge == after.speaker_judge:
        lines.append(f"similarity by {after.speaker_judge}: {change(old, new, similarities)}")
    both = [name for name in extra_names(new) if name in extra_names(old)]
    lines += [f"{name}: {change(old, new, extra_metric(name))}" for name in both]
    num_items = len({score.id for score in new})
    return [f"against {before.ckpt}, on the {num_items} items that both have (95 % intervals, paired by item):", *lines]


def extra_names(scores: Sequence[Score]) -> list[str]:
    """List the other judges' scores and the measures that any clip has, in order."""
    found = [(name, value) for score in scores for name, value in (score.opinions | score.measures).items()]
    return list(dict.fromkeys(name for name, value in found if not math.isnan(value)))


def common(before: Sequence[Score], after: Sequence[Score]) -> tuple[list[Score], list[Score]]:
    """Return the scores of the items on both sides; raise ValueError if there are none or if a text differs."""
    known = {score.id: score for score in before}
    ids = known.keys() & {score.id for score in after}
    differing = sorted({score.id for score in after if score.id in ids and not same_text(score, known[score.id])})
    if differing or not ids:
        raise ValueError(others(differing) if differing else "eval.against: no item is in both evaluations")
    return [score for score in before if score.id in ids], [score for score in after if score.id in ids]


def others(differing: Sequence[str]) -> str:
    """Say that two evaluations have different texts under the same ids."""
    return (
        f"eval.against: the two evaluations cannot be compared; these items have other texts, or their texts another "
        f"normal form: {', '.join(differing[:10])}"
    )


def same_text(one: Score, other: Score) -> bool:
    """Check whether two scores are of the same text, in its normal form; earlier results have its length alone."""
    return one.text == other.text if one.text and other.text else one.chars == other.chars


def change(before: Sequence[Score], after: Sequence[Score], metric: RatioMetric, *, percent: bool = False) -> str:
    """Format the change of a metric with its interval, and whether the interval leaves out 0."""
    interval = paired_interval([before], [after], metric)
    unit, digits = (100, 1) if percent else (1, 3)
    value, low, high = (f"{unit * x:+.{digits}f}" for x in (interval.value, interval.low, interval.high))
    verdict = "" if interval.low > 0 or interval.high < 0 else ", undecided"
    return f"{value}{' points' * percent} ({low} to {high}{verdict})"
