"""Verdicts: whether a model became better than the one before, by a judge that was no reward, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from f5_tts.eval.comparison import common
from f5_tts.eval.statistics import Interval, Score, paired_interval, similarities
from f5_tts.report.curves import title_of
from f5_tts.report.evaluation import judge_of
from f5_tts.report.sources import Evaluation, Training
from f5_tts.report.table import asr_title

BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"
Scores = Sequence[Sequence[Score]]  # of each seed
SIMILARITY = "eval/sim"  # of validations
NOT_ON_DEV = ("asr/", "forgot/")  # beginnings of the names of error rates that no validation on dev measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Sentence about one measurement, and whether it became better."""

    text: str
    answer: str = ""  # BETTER, WORSE or UNDECIDED; empty where the sentence says no such thing


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Answer to the question whether a model became better."""

    title: str  # of the model
    headline: Finding
    details: Sequence[Finding]

    @property
    def findings(self) -> list[Finding]:
        """Return the headline and the details."""
        return [self.headline, *self.details]


def compare_models(before: Evaluation, after: Evaluation, judge: str | None = None) -> Verdict:
    """Compare two evaluations on their common items, paired by item.

    Args:
        judge: recognizer that the headline comes from; None: the first one of both that was no reward of the model.
    """
    name = shared_judge(before, after, judge)
    if name is None:
        return incomparable(after, f"no recogniser judged both {before.title} and {after.title}")
    try:
        headline = by_recognizer(before, after, name)
    except ValueError as error:
        return incomparable(after, str(error).removeprefix("eval.against: "))
    others = [by_recognizer(before, after, other) for other in shared_recognizers(before, after) if other != name]
    num_items = len({score.id for score in shared_scores(before, after, name)[1][0]})
    note = f"95 % intervals, on {num_items} held-out items, paired by item; {training_runs(before, after)}"
    return Verdict(
        title=after.title,
        headline=replace(headline, text=f"{after.title}: {headline.text}"),
        details=[*others, *by_voice(before, after, name), Finding(text=note)],
    )


def training_runs(before: Evaluation, after: Evaluation) -> str:
    """Say how many training runs a comparison is of."""
    counts = [f"{len(model.results)} training runs of {model.title}" for model in (before, after) if model.other_seeds]
    return f"over items and seeds: {' and '.join(counts)}" if counts else "one training run"


def incomparable(after: Evaluation, reason: str) -> Verdict:
    """Build the verdict for a model that cannot be compared."""
    headline = Finding(text=f"{after.title}: not compared")
    return Verdict(title=after.title, headline=headline, details=[Finding(text=reason)])


def shared_recognizers(before: Evaluation, after: Evaluation) -> list[str]:
    """List the recognizers that judged both models."""
    old, new = before.result, after.result
    return [name for name in new.scores if name in old.scores and old.titles.get(name) == new.titles.get(name)]


def shared_judge(before: Evaluation, after: Evaluation, judge: str | None) -> str | None:
    """Return the recognizer that answers; None if none judged both."""
    names = shared_recognizers(before, after)
    wanted = [judge, judge_of(after.result), *names]
    return next((name for name in wanted if name in names), None)


def by_recognizer(before: Evaluation, after: Evaluation, name: str) -> Finding:
    """Say by how much the error rate of a recognizer has changed, relative to the old one unless that may be 0."""
    change, unit = relative_change(*shared_scores(before, after, name))
    answer = answer_of(change)
    size = f"{change.value:+.0f}{unit} ({change.low:+.0f} to {change.high:+.0f})"
    words = {BETTER: "fewer word errors than", WORSE: "more word errors than", UNDECIDED: "no clear difference from"}
    title = asr_title(after.result, name, after.result.rewards)
    return Finding(text=f"{words[answer]} {before.title}, {size} by {title}", answer=answer)


def shared_scores(before: Evaluation, after: Evaluation, name: str) -> tuple[Scores, Scores]:
    """Return the scores of every seed by a recognizer, on the items that both models have."""
    old, new = before.results, after.results
    return (
        [common(new[0].unseen(name), result.unseen(name))[1] for result in old],
        [common(old[0].unseen(name), result.unseen(name))[1] for result in new],
    )


def relative_change(old: Scores, new: Scores) -> tuple[Interval, str]:
    """Return the change of the error rate in percent of the old one, or in points where that may be 0; the unit."""
    try:
        change, unit = paired_interval(old, new, relative=True), " %"
    except ValueError:
        change, unit = paired_interval(old, new), " points"
    return Interval(100 * change.value, 100 * change.low, 100 * change.high), unit


def answer_of(change: Interval, *, lower_is_better: bool = True) -> str:
    """Return the answer for a change: undecided where its interval holds 0."""
    if math.isnan(change.low) or change.low <= 0 <= change.high:
        return UNDECIDED
    return BETTER if (change.high < 0) == lower_is_better else WORSE


def by_voice(before: Evaluation, after: Evaluation, name: str) -> list[Finding]:
    """Say how the similarity to the prompt's voice has changed; nothing where two encoders measured it."""
    judge = after.result.speaker_judge
    if before.result.speaker_judge != judge:
        return []
    change = paired_interval(*shared_scores(before, after, name), similarities)
    return [voice_finding(change, judge)]


def voice_finding(change: Interval, judge: str) -> Finding:
    """Say how the similarity to the prompt's voice has changed."""
    answer = answer_of(change, lower_is_better=False)
    words = {BETTER: "a voice closer to the prompt's", WORSE: "a voice less like the prompt's"}
    voice = words.get(answer, "no clear difference of the voice")
    size = f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
    return Finding(text=f"{voice}, similarity {size} by {judge}", answer=answer)


# --- runs without an evaluation ---


def error_rate_name(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the name of the error rate of the first recognizer that a validation asked; None without one."""
    names = (name for row in rows for name in row)
    return next((name for name in names if name.endswith("/wer") and not name.startswith(NOT_ON_DEV)), None)


def from_validations(training: Training) -> Verdict:
    """Compare the best validation of a run with its first one; their items are those that chose the best weights."""
    name = error_rate_name(training.rows)
    validated = [row for row in training.rows if name is not None and row.get(name) is not None]
    if name is None or len(validated) < 2:
        advice = (
            f"Evaluate the model before and after the run, with eval.out={training.folder}/eval/before and "
            f"eval.out={training.folder}/eval/after, and make the report again; or validate while it trains "
            "(eval.every_updates)."
        )
        headline = Finding(text=f"{training.title}: not evaluated")
        return Verdict(title=training.title, headline=headline, details=[Finding(text=advice)])
    first, best = validated[0], min(validated[1:], key=lambda row: row[name])
    interval = change_of(name, first, best, scale=100)
    text = (
        f"{training.title}: {100 * best[name]:.1f} % word errors at update {best['update']}, {100 * first[name]:.1f} % "
        f"at update {first['update']}"
    )
    size = f"{interval.value:+.1f} points ({interval.low:+.1f} to {interval.high:+.1f})"
    note = (
        f"{size} of the {title_of(name, {})}, on the validation's items. The update is the one with the fewest "
        "errors on these items, so expect less on others."
    )
    voice = []
    if first.get(SIMILARITY) is not None and best.get(SIMILARITY) is not None:
        voice = [voice_finding(change_of(SIMILARITY, first, best), "the validation's judge")]
    return Verdict(
        title=training.title,
        headline=Finding(text=text, answer=answer_of(interval)),
        details=[Finding(text=note), *voice],
    )


def change_of(name: str, first: Mapping[str, Any], later: Mapping[str, Any], scale: float = 1.0) -> Interval:
    """Return the change of a metric between two validations, whose intervals are taken as independent."""
    change, noise = later[name] - first[name], math.hypot(*(row.get(f"{name}_ci95") or 0.0 for row in (first, later)))
    return Interval(scale * change, scale * (change - noise), scale * (change + noise))
