"""Scores of single items -> error rate, similarity, and how sure we may be of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
TAILS = (2.5, 97.5)  # percent, of a 95 % interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What was measured on one clip."""

    id: str  # of the item; several takes of an item have the same
    seen: bool  # whether the speaker was in the training data
    edits: int  # words put in, left out or replaced
    words: int  # of the text that was to be spoken
    char_edits: int  # the same by character, spaces aside
    chars: int
    stutters: bool  # whether words are heard more often in a row than they stand there
    leaks: bool  # whether it begins with words of the prompt
    similarity: float  # of the voice to the prompt's, as the reward measures it
    hypothesis: str  # what the recogniser heard
    opinions: dict[str, float] = field(default_factory=dict)  # of other judges, by component; NaN: does not apply

    def __post_init__(self) -> None:
        for edits, size, unit in ((self.edits, self.words, "word"), (self.char_edits, self.chars, "character")):
            if size < 1 or edits < 0:
                raise ValueError(
                    f"score of item {self.id!r} has {edits} edits in {size} {unit}s; "
                    f"at least 0 edits and at least 1 {unit} are needed"
                )


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


RatioMetric = Callable[[Sequence[Score]], tuple[NDArray[np.float64], NDArray[np.float64]]]


def word_errors(scores: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numerators and denominators, item by item in the order of ids, whose sums' ratio is the error rate."""
    return by_item(scores, [s.edits for s in scores]), by_item(scores, [s.words for s in scores])


def char_errors(scores: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return by_item(scores, [s.char_edits for s in scores]), by_item(scores, [s.chars for s in scores])


def repetitions(scores: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return by_item(scores, [s.stutters for s in scores]), by_item(scores, [1] * len(scores))


def prompt_leaks(scores: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return by_item(scores, [s.leaks for s in scores]), by_item(scores, [1] * len(scores))


def similarities(scores: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numerators and denominators, item by item in the order of ids, whose sums' ratio is the mean similarity."""
    return by_item(scores, [s.similarity for s in scores]), by_item(scores, [1] * len(scores))


def extra_metric(component: str) -> RatioMetric:
    """The mean of what a judge said of clips to which it applies."""

    def of(scores: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = np.array([score.opinions.get(component, np.nan) for score in scores])
        applies = ~np.isnan(values)
        return by_item(scores, np.where(applies, values, 0.0).tolist()), by_item(scores, applies.tolist())

    return of


def by_item(scores: Sequence[Score], values: Sequence[float | int]) -> NDArray[np.float64]:
    """Sums over the takes of each item: items differ by chance, takes of one item are not independent."""
    _, item = np.unique([score.id for score in scores], return_inverse=True)
    return np.bincount(item, weights=values).astype(float)


def error_rate(scores: Sequence[Score]) -> float:
    """All edits over all words: long items weigh more, and insertions can lift it above 1."""
    return ratio(*word_errors(scores))


def mean_similarity(scores: Sequence[Score]) -> float:
    return ratio(*similarities(scores))


def ratio(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> float:
    return float(numerators.sum() / denominators.sum())


def bootstrap_interval(
    scores: Sequence[Score], metric: RatioMetric = word_errors, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Percentile bootstrap over items: what the quantity would be on other items drawn like these."""
    return bootstrap_intervals(scores, [metric], resamples=resamples, seed=seed)[0]


def bootstrap_intervals(
    scores: Sequence[Score], metrics: Sequence[RatioMetric], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    """Of several quantities, on the same resamples."""
    check_not_empty(scores)
    sums = [metric(scores) for metric in metrics]
    items = draw_counts(len(sums[0][0]), resamples, np.random.default_rng(seed))
    return [interval(ratios(items @ top, items @ bottom)) for top, bottom in sums]


def ratios(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where there is nothing to divide by: no drawn item has such a measure."""
    return np.divide(numerators, denominators, out=np.full_like(numerators, np.nan), where=denominators > 0)


def paired_interval(
    before: Sequence[Score],
    after: Sequence[Sequence[Score]],
    metric: RatioMetric = word_errors,
    *,
    relative: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """After minus before on the same items (by id), in any order; `relative` divides that by before.

    `after` holds one list of scores per training seed (for a single run, a list of one list). Items and seeds are both
    resampled, each item with its before and all its afters together, so what is hard about an item cancels. With S
    seeds the part of the spread that seeds cause comes out too small by the factor sqrt((S - 1) / S), about 0.8 for
    three: read a bound close to 0 as undecided.
    """
    check_not_empty(before)
    check_not_empty(after)
    top, bottom = metric(before)
    for seed_scores in after:
        check_matched(before, seed_scores)
    after_top, after_bottom = np.array([metric(seed_scores) for seed_scores in after]).swapaxes(0, 1)
    rng = np.random.default_rng(seed)
    items, seeds = draw_counts(len(top), resamples, rng), draw_counts(len(after), resamples, rng)
    old = (items @ top) / (items @ bottom)
    new = ((seeds @ after_top) * items).sum(axis=1) / ((seeds @ after_bottom) * items).sum(axis=1)
    return interval(relative_change(old, new) if relative else new - old)


def check_not_empty(scores: Sequence[object]) -> None:
    if not scores:
        raise ValueError("an interval needs at least one score, found none")


def check_matched(before: Sequence[Score], after: Sequence[Score]) -> None:
    """Both sides must have as many takes of every item."""
    ids, others = (Counter(score.id for score in scores) for scores in (before, after))
    if ids != others:
        differing = sorted(((ids - others) | (others - ids)).keys())
        raise ValueError(f"a paired comparison needs the same items, as often on both sides; these differ: {differing}")


def draw_counts(size: int, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How often each of `size` things is drawn, with replacement, in each resample; the first row is the data: ones."""
    counts = rng.multinomial(size, np.full(size, 1 / size), size=resamples)
    return np.concatenate([np.ones((1, size)), counts.astype(float)])


def relative_change(old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    if old.min() <= 0:
        raise ValueError("a relative change needs a value above 0 before, in every resample; ask for the difference")
    return (new - old) / old


def interval(values: NDArray[np.float64]) -> Interval:
    """From the data's own value, which comes first, and those of the resamples that have one."""
    finite = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(finite, TAILS) if len(finite) else (np.nan, np.nan)
    return Interval(float(values[0]), float(low), float(high))
