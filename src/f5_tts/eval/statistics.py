"""Error rates, similarities and their bootstrap confidence intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
TAILS = (2.5, 97.5)  # percentiles of a 95 % interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Measurements of one clip."""

    id: str  # of the item; the takes of an item share it
    seen: bool  # whether the speaker was in the training data
    edits: int  # inserted, deleted and substituted words
    words: int  # of the text
    char_edits: int  # edits by character, without spaces
    chars: int
    stutters: bool  # whether words are repeated in a row more often than in the text
    leaks: bool  # whether the transcript begins with words of the prompt
    similarity: float  # speaker similarity to the prompt, by eval.speaker
    hypothesis: str  # transcript by the recognizer, in the normal form that is compared
    heard: str = ""  # the same as the recognizer wrote it; empty in earlier files
    kind: str = ""  # of the text, as the list says
    text: str = ""  # text to synthesize, in the normal form that is compared; empty in earlier files
    opinions: dict[str, float] = field(default_factory=dict)  # scores of other judges by component; NaN: does not apply
    measures: dict[str, float] = field(default_factory=dict)  # of the clip without a model, those that apply

    def __post_init__(self) -> None:
        for edits, size, unit in ((self.edits, self.words, "word"), (self.char_edits, self.chars, "character")):
            if size < 1 or edits < 0:
                raise ValueError(
                    f"score of item {self.id!r} has {edits} edits in {size} {unit}s; "
                    f"at least 0 edits and at least 1 {unit} are needed"
                )


@dataclass(frozen=True, slots=True)
class Interval:
    """Value with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Return half the width of the interval."""
        return (self.high - self.low) / 2


RatioMetric = Callable[[Sequence[Score]], tuple[NDArray[np.float64], NDArray[np.float64]]]


def word_errors(scores: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return word edits and words by item, in the order of ids.

    The ratio of their sums is the error rate.
    """
    return by_item(scores, [s.edits for s in scores]), by_item(scores, [s.words for s in scores])


def char_errors(scores: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return character edits and characters by item."""
    return by_item(scores, [s.char_edits for s in scores]), by_item(scores, [s.chars for s in scores])


def repetitions(scores: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the clips with repetitions and all clips by item."""
    return by_item(scores, [s.stutters for s in scores]), by_item(scores, [1] * len(scores))


def prompt_leaks(scores: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the clips with prompt leaks and all clips by item."""
    return by_item(scores, [s.leaks for s in scores]), by_item(scores, [1] * len(scores))


def similarities(scores: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return summed similarities and clip counts by item, in the order of ids.

    The ratio of their sums is the mean similarity of the clips where it is not NaN, as with a prompt without a voice.
    """
    return where_it_applies(scores, [s.similarity for s in scores])


def extra_metric(component: str) -> RatioMetric:
    """Return a metric: the mean of a judge's score, or of a measure, over the clips where it is not NaN."""

    def of(scores: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = [score.opinions.get(component, score.measures.get(component, np.nan)) for score in scores]
        return where_it_applies(scores, values)

    return of


def where_it_applies(
    scores: Sequence[Score], values: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return summed values and counts by item, over the clips whose value is not NaN."""
    applies = ~np.isnan(values)
    return by_item(scores, np.where(applies, values, 0.0).tolist()), by_item(scores, applies.tolist())


def by_item(scores: Sequence[Score], values: Sequence[float | int]) -> NDArray[np.float64]:
    """Sum values over the takes of each item.

    Only items are independent; takes of one item are not.
    """
    _, item = np.unique([score.id for score in scores], return_inverse=True)
    return np.bincount(item, weights=values).astype(float)


def error_rate(scores: Sequence[Score]) -> float:
    """Compute all edits divided by all words: long items weigh more, and insertions can make it greater than 1."""
    return ratio(*word_errors(scores))


def mean_similarity(scores: Sequence[Score]) -> float:
    """Compute the mean speaker similarity."""
    return ratio(*similarities(scores))


def ratio(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> float:
    """Divide the sum of the numerators by the sum of the denominators; NaN where that is 0."""
    return float(numerators.sum() / denominators.sum()) if denominators.any() else np.nan


def bootstrap_interval(
    scores: Sequence[Score], metric: RatioMetric = word_errors, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Compute a percentile bootstrap interval of a metric over items."""
    return bootstrap_intervals(scores, [metric], resamples=resamples, seed=seed)[0]


def bootstrap_intervals(
    scores: Sequence[Score], metrics: Sequence[RatioMetric], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    """Compute the bootstrap intervals of several metrics on the same resamples."""
    check_not_empty(scores)
    sums = [metric(scores) for metric in metrics]
    items = draw_counts(len(sums[0][0]), resamples, np.random.default_rng(seed))
    return [interval(ratios(items @ top, items @ bottom)) for top, bottom in sums]


def ratios(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide elementwise; NaN where the denominator is 0, because no drawn item has the metric."""
    return np.divide(numerators, denominators, out=np.full_like(numerators, np.nan), where=denominators > 0)


def seeds_interval(
    runs: Sequence[Sequence[Score]], metric: RatioMetric = word_errors, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Compute the interval of a metric over all clips of several training seeds; items and seeds are both resampled.

    As for `paired_interval`, the spread due to few seeds is underestimated.
    """
    check_runs(runs)
    rng = np.random.default_rng(seed)
    items = draw_counts(len(metric(runs[0])[0]), resamples, rng)
    return interval(ratios_over_seeds(runs, metric, items, draw_counts(len(runs), resamples, rng)))


def ratios_over_seeds(
    runs: Sequence[Sequence[Score]], metric: RatioMetric, items: NDArray[np.float64], seeds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute a metric over all clips of several training seeds, for each resample of the items and of the seeds."""
    top, bottom = np.array([metric(scores) for scores in runs]).swapaxes(0, 1)
    return ratios(((seeds @ top) * items).sum(axis=1), ((seeds @ bottom) * items).sum(axis=1))


def paired_interval(
    before: Sequence[Sequence[Score]],
    after: Sequence[Sequence[Score]],
    metric: RatioMetric = word_errors,
    *,
    relative: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Compute the interval of the change from before to after on the same items, matched by id.

    With `relative` the change is divided by the value before. Both sides hold one list of scores per training seed (a
    list of one list for a single run).

    Items and seeds are both resampled, each item with all its befores and afters together, so the difficulty of an
    item cancels; the seeds of both sides have nothing to do with each other. With S seeds, the part of the spread due
    to seeds is too small by the factor sqrt((S - 1) / S), about 0.8 for three seeds; so treat a bound close to 0 as
    undecided.
    """
    check_runs(before)
    check_runs(after)
    check_matched(before[0], after[0])
    rng = np.random.default_rng(seed)
    items = draw_counts(len(metric(before[0])[0]), resamples, rng)
    new = ratios_over_seeds(after, metric, items, draw_counts(len(after), resamples, rng))
    old = ratios_over_seeds(before, metric, items, draw_counts(len(before), resamples, rng))
    return interval(relative_change(old, new) if relative else new - old)


def check_runs(runs: Sequence[Sequence[Score]]) -> None:
    """Raise ValueError unless there is a run, and all runs have the same items."""
    check_not_empty(runs)
    for scores in runs:
        check_not_empty(scores)
        check_matched(runs[0], scores)


def check_not_empty(scores: Sequence[object]) -> None:
    """Raise ValueError if there are no scores."""
    if not scores:
        raise ValueError("an interval needs at least one score, found none")


def check_matched(before: Sequence[Score], after: Sequence[Score]) -> None:
    """Raise ValueError unless both sides have the same number of takes of each item."""
    ids, others = (Counter(score.id for score in scores) for scores in (before, after))
    if ids != others:
        differing = sorted(((ids - others) | (others - ids)).keys())
        raise ValueError(f"a paired comparison needs the same items, as often on both sides; these differ: {differing}")


def draw_counts(size: int, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw how often each of `size` items occurs in each resample, with replacement.

    The first row is the data itself: ones.
    """
    counts = rng.multinomial(size, np.full(size, 1 / size), size=resamples)
    return np.concatenate([np.ones((1, size)), counts.astype(float)])


def relative_change(old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide the change by the old values; raise ValueError unless all of these are above 0."""
    if old.min() <= 0:
        raise ValueError("a relative change needs a value above 0 before, in every resample; ask for the difference")
    return (new - old) / old


def interval(values: NDArray[np.float64]) -> Interval:
    """Build the interval of a metric: its value on the data, which comes first, and the percentiles of the resamples.

    NaN resamples are left out.
    """
    finite = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(finite, TAILS) if len(finite) else (np.nan, np.nan)
    return Interval(float(values[0]), float(low), float(high))
