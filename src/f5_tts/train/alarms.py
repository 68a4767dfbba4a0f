"""Alarms: metric patterns of a stage-2 run that fails, and the config key to change."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

Row = Mapping[str, float | int | None]  # one update's metrics, as in metrics.jsonl; None: not finite

WINDOW = 5  # number of updates over which a metric is averaged, or must stay in range, before an alarm
HISTORY_LENGTH = 20  # number of last updates that are kept
MIN_SIGMA_SHARE = 0.25  # fraction of the initial σ; below it the samples of a group hardly differ
MAX_RATIO_DEVIATION = 0.05  # distance of a ratio from 1; ratios are averaged over mel entries and should be within 1e-3
MAX_CLIPPED_SHARE = 0.5  # fraction of samples with a clipped ratio, which have no gradient
MAX_KL = 0.5  # per mel entry: means are one standard deviation from the reference's (nft: velocities 0.7)
MAX_KL_GROWTH = 10.0  # growth factor within WINDOW updates
MIN_KL = 0.02  # growth from a KL below it is ignored, since KL starts at 0
MAX_WER_RISE = 0.05  # rise of the judge's error rate; a few dozen clips mostly vary by less at random
MAX_SIMILARITY_FALL = 0.05  # fall of eval/sim, likewise
MIN_F0_SHARE = 0.75  # share of the first validation's F0 spread; a validation of a few dozen clips varies by a tenth
MAX_MOS_FALL = 0.2  # fall of eval/mos since the first validation, points of 1 to 5
MAX_REWARD = 1e18  # the square of larger ones, summed over an update, may pass the end of single precision, 3.4e38
SPREAD_ADVICE = (
    "raise rl.mini_repeat_count, or what makes samples differ (rl.temperature, flow_grpo: rl.sde.a), or add a reward "
    "that distinguishes them"
)
KEPT, ERROR_RATE = ("eval/sim", "eval/f0_spread", "eval/mos"), "/wer"  # metrics of a validation: names, end of others
ELSEWHERE = ("asr/", "forgot/")  # beginnings of the names of error rates that are not on the items of dev
VALIDATIONS = 2  # number of last validations that must all be worse than an earlier one


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Metrics that the alarms read; each list has the oldest row first."""

    start: list[Row] = field(default_factory=list)  # the first WINDOW updates of the run
    recent: deque[Row] = field(default_factory=lambda: deque(maxlen=HISTORY_LENGTH))  # the last HISTORY updates
    distances: deque[float] = field(default_factory=lambda: deque(maxlen=2 * WINDOW))  # the last finite values of
    # `loss/kl`: with rl.anchor_every not every update of draft has one
    validated: list[Row] = field(default_factory=list)  # error rates, KEPT and the mean of `reward/mean` over
    # the last HISTORY_LENGTH updates (NaN before the first one), by validation

    def add(self, row: Row) -> None:
        """Append the metrics of one update, and the validation result with the mean recent reward if there is one."""
        if len(self.start) < WINDOW:
            self.start.append(row)
        self.recent.append(row)
        self.distances.extend(values([row], "loss/kl"))
        result = {name: value for name, value in row.items() if is_validated(name)}
        if result:
            self.validated.append({**result, "reward/mean": mean_of(self.recent, "reward/mean")})


def is_validated(name: str) -> bool:
    """Check whether a metric is similarity, naturalness or an error rate of a validation, of whichever recognizer."""
    return name in KEPT or (name.endswith(ERROR_RATE) and not name.startswith(ELSEWHERE))


AlarmFn = Callable[[History], str | None]  # returns what was found and what to do, or None


def values(rows: Iterable[Row], name: str) -> list[float]:
    """Collect the finite values of a metric from the rows that have it."""
    candidates = (row.get(name) for row in rows)
    return [value for value in candidates if value is not None and math.isfinite(value)]


def mean_of(rows: Iterable[Row], name: str) -> float:
    """Compute the mean of a metric; NaN without a value, so that every comparison with it is false."""
    return fmean(values(rows, name) or [math.nan])


def sustained_min(rows: Iterable[Row], name: str) -> float:
    """Compute the minimum of a metric over the last WINDOW updates; NaN when there are fewer."""
    last = values(rows, name)[-WINDOW:]
    return min(last) if len(last) == WINDOW else math.nan


def sigma_collapsed(history: History) -> str | None:
    """Check whether σ fell to a fraction of its start: the samples of a group then hardly differ."""
    start = mean_of(history.start, "policy/sigma_mean")
    current = mean_of(list(history.recent)[-WINDOW:], "policy/sigma_mean")
    if current < MIN_SIGMA_SHARE * start:
        return (
            f"policy/sigma_mean fell from {start:.3g} to {current:.3g}, so samples hardly differ: set "
            "rl.train_sigma=false; if it is false already, raise rl.kl_weight or lower optim.learning_rate"
        )
    return None


def ratio_out_of_range(history: History) -> str | None:
    """Check whether the policy moved too far from the one that drew the samples.

    Only updates that reuse a rollout are checked: the first update of a rollout has a ratio of 1.
    """
    later = [row for row in history.recent if "ratio/initial_max_dev" not in row]
    ratio, clipped = sustained_min(later, "ratio/max_dev"), sustained_min(later, "clip_ratio/region_mean")
    if ratio > MAX_RATIO_DEVIATION or clipped > MAX_CLIPPED_SHARE:
        names = ("ratio/max_dev", "clip_ratio/region_mean")
        measured = ", ".join(f"{name}={mean_of(later[-WINDOW:], name):.3g}" for name in names)
        return (
            f"for {WINDOW} updates the policy was far from the one that generated the rollouts ({measured}): lower "
            "rl.updates_per_rollout or optim.learning_rate"
        )
    return None


def kl_out_of_range(history: History, limit: float = MAX_KL) -> str | None:
    """Check whether the KL to the reference is above a limit, or grows fast."""
    rows = [{"loss/kl": distance} for distance in history.distances]
    current, before = mean_of(rows[-WINDOW:], "loss/kl"), mean_of(rows[-2 * WINDOW : -WINDOW], "loss/kl")
    if sustained_min(rows, "loss/kl") > limit:
        measured = f"loss/kl={current:.3g} for {WINDOW} updates (the threshold is {limit})"
    elif before > MIN_KL and current > MAX_KL_GROWTH * before:
        measured = f"loss/kl rose from {before:.3g} to {current:.3g} within {WINDOW} updates"
    else:
        return None
    return f"{measured}, the policy drifts away from its reference: raise rl.kl_weight or lower optim.learning_rate"


def reward_too_large(history: History) -> str | None:
    """Check whether a reward is so large that its square, and so its standard deviation, is not finite."""
    row = history.recent[-1]
    rewards = {name: row[name] for name in ("reward/min", "reward/max") if name in row}
    if all(value is not None and abs(value) < MAX_REWARD for value in rewards.values()):
        return None
    measured = ", ".join(f"{name}={math.nan if value is None else value:.3g}" for name, value in rewards.items())
    return (
        f"{measured}: the spread of rewards beyond {MAX_REWARD:.0e} is not finite, so that nothing is learned: divide "
        "the reward by a constant in its own code, or set rl.rewards.mode=rank_shaping"
    )


def no_spread(history: History) -> str | None:
    """Check whether all groups have equal rewards, so that every advantage is zero."""
    if sustained_min(history.recent, "frac_reward_zero_std") == 1:
        return (
            f"for {WINDOW} updates all samples of every group had the same score, so there is no gradient: "
            f"{SPREAD_ADVICE}"
        )
    return None


def reward_hacked(history: History, judge: str = "judge/wer") -> str | None:
    """Check for reward hacking: the reward is higher than at the best validation so far, and the validation worse.

    It is worse where in each of the last VALIDATIONS ones the judge's error rate is more than MAX_WER_RISE above the
    lowest before them, or `eval/sim` more than MAX_SIMILARITY_FALL below the highest. The reward is that before each of
    them, and before the best one.
    """
    for metric, sign, limit in ((judge, 1, MAX_WER_RISE), ("eval/sim", -1, MAX_SIMILARITY_FALL)):
        rows = [row for row in history.validated if values([row], metric)]
        earlier, last = rows[:-VALIDATIONS], rows[-VALIDATIONS:]
        if not earlier:
            continue
        best = min(earlier, key=lambda row: sign * mean_of([row], metric))
        is_worse = all(sign * (mean_of([row], metric) - mean_of([best], metric)) > limit for row in last)
        reward = mean_of([best] if values([best], "reward/mean") else history.start, "reward/mean")
        if is_worse and min(values(last, "reward/mean"), default=math.nan) > reward:
            return (
                f"since the validation with the best {metric}, reward/mean rose from {reward:.3g} to "
                f"{mean_of(last[-1:], 'reward/mean'):.3g} and {metric} got worse, from {mean_of([best], metric):.3g} "
                f"to {mean_of(last[-1:], metric):.3g}: stop and take model_best.pt, lower optim.learning_rate, or "
                "raise rl.kl_weight"
            )
    return None


def less_natural(history: History, judge: str = "judge/wer") -> str | None:
    """Check whether speech got more intelligible and less natural since the first validation: monotone, for example.

    In each of the last VALIDATIONS ones the error rate is lower than in the first one, and F0 spread below MIN_F0_SHARE
    of it, or MOS more than MAX_MOS_FALL below it (arXiv 2509.18531).
    """
    rows = [row for row in history.validated if values([row], judge)]
    if len(rows) <= VALIDATIONS:
        return None
    first, last = rows[0], rows[-VALIDATIONS:]

    def fell(metric: str, limit: float) -> bool:
        return all(mean_of([row], metric) < limit for row in last)

    def change(metric: str) -> str:
        return f"{metric} fell from {mean_of([first], metric):.3g} to {mean_of(last[-1:], metric):.3g}"

    limits = {
        "eval/f0_spread": MIN_F0_SHARE * mean_of([first], "eval/f0_spread"),
        "eval/mos": mean_of([first], "eval/mos") - MAX_MOS_FALL,
    }
    fallen = [metric for metric, limit in limits.items() if fell(metric, limit)]
    if not fallen or not fell(judge, mean_of([first], judge)):
        return None
    return (
        f"{change(judge)}, and {change(fallen[0])}: listen to the clips; take an earlier checkpoint, raise "
        "rl.kl_weight, or give the reward f0_spread a weight"
    )


ALARMS: dict[str, AlarmFn] = {
    "sigma_collapsed": sigma_collapsed,
    "ratio_out_of_range": ratio_out_of_range,
    "kl_out_of_range": kl_out_of_range,
    "reward_too_large": reward_too_large,
    "no_spread": no_spread,
    "reward_hacked": reward_hacked,
    "less_natural": less_natural,
}


class AlarmMonitor:
    """Alarms of a run, checked after each update; a resumed run passes its earlier rows."""

    def __init__(self, alarms: Mapping[str, AlarmFn], past_rows: Sequence[Row] = ()) -> None:
        self.alarms, self.history, self.active = alarms, History(), set[str]()
        for row in past_rows:
            self.history.add(row)

    def is_active(self, name: str) -> bool:
        """Check whether an alarm is active after the last update, also after one of before a resume."""
        return name in self.alarms and self.alarms[name](self.history) is not None

    def __call__(self, row: Row) -> tuple[dict[str, float], list[str]]:
        """Return a metric for each alarm that is active after this update, and a line for each that is new."""
        self.history.add(row)
        ringing = {name: text for name, alarm in self.alarms.items() if (text := alarm(self.history)) is not None}
        lines = [f"alarm {name}: {text}" for name, text in ringing.items() if name not in self.active]
        self.active = set(ringing)
        return {f"health/alarm_{name}": 1.0 for name in ringing}, lines
