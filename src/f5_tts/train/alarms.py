"""What a run of stage 2 that goes wrong looks like in its metrics, and which knob to turn."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

Row = Mapping[str, float | int | None]  # one update's metrics, as in metrics.jsonl; None: not finite

SEVERAL = 5  # updates over which a metric is averaged, or must stay where it is, before it counts
RECENT = 20  # updates that are remembered
LEAST_SIGMA = 0.25  # of sigma at the start: with less of it the samples of a group hardly differ
MOST_RATIO = 0.05  # distance of a ratio from 1; ratios are of means over mel entries and belong within 1e-3
MOST_CLIPPED = 0.5  # share of samples with a clipped ratio: they learn nothing
MOST_KL = 0.5  # per mel entry: means lie a standard deviation from the reference's (nft: velocities 0.7)
FASTEST_KL = 10.0  # times as large as SEVERAL updates before
SMALL_KL = 0.02  # growth from below it is worth no word: KL starts at 0
JUDGE_WORSE = 0.05  # judge's error rate above an earlier one: a few dozen clips differ by less, mostly, by chance
SPREAD_MORE = (
    "raise rl.mini_repeat_count, or what makes samples differ (rl.temperature, flow_grpo: rl.sde.a), or add a reward "
    "that tells them apart"
)
VALIDATIONS = 3  # that must show reward and judge going apart


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What the alarms look at; each list oldest first."""

    start: list[Row] = field(default_factory=list)  # the run's first SEVERAL updates
    recent: deque[Row] = field(default_factory=lambda: deque(maxlen=RECENT))  # its last ones
    validated: deque[Row] = field(default_factory=lambda: deque(maxlen=VALIDATIONS))  # `judge/wer`, and `reward/mean`
    # of the RECENT updates before it

    def add(self, row: Row) -> None:
        if len(self.start) < SEVERAL:
            self.start.append(row)
        self.recent.append(row)
        rewards = values(self.recent, "reward/mean")
        if row.get("judge/wer") is not None and rewards:
            self.validated.append({"judge/wer": row["judge/wer"], "reward/mean": fmean(rewards)})


Look = Callable[[History], str | None]  # what was seen and what to do; None where all is well


def values(rows: Iterable[Row], name: str) -> list[float]:
    """A metric of the rows that have it."""
    found = (row.get(name) for row in rows)
    return [value for value in found if value is not None and math.isfinite(value)]


def mean_of(rows: Iterable[Row], name: str) -> float:
    """NaN without a value, which compares with nothing."""
    return fmean(values(rows, name) or [math.nan])


def lasting(rows: Iterable[Row], name: str) -> float:
    """What a metric has not fallen below for SEVERAL updates; NaN when there are fewer."""
    last = values(rows, name)[-SEVERAL:]
    return min(last) if len(last) == SEVERAL else math.nan


def sigma_collapsed(history: History) -> str | None:
    """Samples of a group need noise to differ by."""
    start = mean_of(history.start, "policy/sigma_mean")
    now = mean_of(list(history.recent)[-SEVERAL:], "policy/sigma_mean")
    if now < LEAST_SIGMA * start:
        return (
            f"policy/sigma_mean fell from {start:.3g} to {now:.3g}, so samples hardly differ: set "
            "rl.train_sigma=false; where it is, raise rl.kl_weight or lower optim.learning_rate"
        )
    return None


def ratio_out_of_range(history: History) -> str | None:
    """Looks at updates whose samples an earlier one has learnt from: the others have a ratio of 1."""
    later = [row for row in history.recent if "ratio/initial_max_dev" not in row]
    ratio, clipped = lasting(later, "ratio/max_dev"), lasting(later, "clip_ratio/region_mean")
    if ratio > MOST_RATIO or clipped > MOST_CLIPPED:
        names = ("ratio/max_dev", "clip_ratio/region_mean")
        seen = ", ".join(f"{name}={mean_of(later[-SEVERAL:], name):.3g}" for name in names)
        return (
            f"for {SEVERAL} updates the policy was far from the one that drew ({seen}): lower rl.updates_per_rollout "
            "or optim.learning_rate"
        )
    return None


def kl_out_of_range(history: History) -> str | None:
    """Far from the reference, or on the way there."""
    rows = list(history.recent)
    now, before = mean_of(rows[-SEVERAL:], "loss/kl"), mean_of(rows[-2 * SEVERAL : -SEVERAL], "loss/kl")
    if lasting(rows, "loss/kl") > MOST_KL:
        seen = f"loss/kl={now:.3g} for {SEVERAL} updates (worth a word above {MOST_KL})"
    elif before > SMALL_KL and now > FASTEST_KL * before:
        seen = f"loss/kl rose from {before:.3g} to {now:.3g} within {SEVERAL} updates"
    else:
        return None
    return f"{seen}, the policy leaves its reference: raise rl.kl_weight or lower optim.learning_rate"


def no_spread(history: History) -> str | None:
    """Nothing to learn from."""
    if lasting(history.recent, "frac_reward_zero_std") == 1:
        return f"for {SEVERAL} updates all samples of every group scored the same, so nothing is learnt: {SPREAD_MORE}"
    return None


def reward_hacked(history: History) -> str | None:
    """The policy pleases the reward, and nobody else."""
    if len(history.validated) < VALIDATIONS:
        return None
    rewards, errors = (values(history.validated, name) for name in ("reward/mean", "judge/wer"))
    if rewards == sorted(set(rewards)) and min(errors[1:]) > errors[0] + JUDGE_WORSE:
        return (
            f"over {VALIDATIONS} validations reward/mean rose from {rewards[0]:.3g} to {rewards[-1]:.3g} and judge/wer "
            f"from {errors[0]:.3g} to {errors[-1]:.3g}: stop and take model_best.pt, or raise rl.kl_weight"
        )
    return None


ALARMS: dict[str, Look] = {
    "sigma_collapsed": sigma_collapsed,
    "ratio_out_of_range": ratio_out_of_range,
    "kl_out_of_range": kl_out_of_range,
    "no_spread": no_spread,
    "reward_hacked": reward_hacked,
}


class Watch:
    """Looks at each update; `past` are the rows of those that a resumed run has behind it."""

    def __init__(self, alarms: Mapping[str, Look], past: Sequence[Row] = ()) -> None:
        self.alarms, self.history, self.ringing = alarms, History(), set[str]()
        for row in past:
            self.history.add(row)

    def __call__(self, row: Row) -> tuple[dict[str, float], list[str]]:
        """A metric for each alarm that rings after this update, and a line for each that did not ring before it."""
        self.history.add(row)
        found = {name: text for name, look in self.alarms.items() if (text := look(self.history)) is not None}
        lines = [f"alarm {name}: {text}" for name, text in found.items() if name not in self.ringing]
        self.ringing = set(found)
        return {f"health/alarm_{name}": 1.0 for name in found}, lines
