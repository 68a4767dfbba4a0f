"""Rewards -> advantages: how much better a sample is than the others drawn for its prompt (pure)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from f5_tts.config.schema import RLConfig

MIN_GROUPS = 8  # from here on the spread over an update is worth dividing by
MIN_STD = 1e-8  # keeps a division by no spread finite
EPS = 1e-4  # grpo: added to a group's standard deviation, in units of the total reward
BASELINE_WINDOW = 64  # samples that a running baseline looks back over

ScaleReward = Callable[[Tensor, Tensor, float, Tensor], Tensor]  # scores b ..., group b, floor, target b n
ScaleTotal = Callable[[Tensor, Tensor, Tensor], Tensor]  # scores b ..., group b, target b n


@runtime_checkable
class AdvantageFn(Protocol):
    """Scores by reward of a whole update, group ids and generated frames -> advantages, of samples or of frames."""

    def __call__(
        self, components: dict[str, Tensor], group_ids: Int[Tensor, " b"], target: Bool[Tensor, "b n"]
    ) -> Float[Tensor, " b"] | Float[Tensor, "b n"]: ...


class GroupAdvantage:
    """Each sample against the others of its prompt: `group_advantages` with a run's settings."""

    def __init__(self, weights: dict[str, float], floors: dict[str, float], rl: RLConfig) -> None:
        self.weights, self.floors, self.rl = weights, floors, rl

    def __call__(self, components: dict[str, Tensor], group_ids: Tensor, target: Tensor) -> Tensor:
        rl = self.rl
        settings = {"mode": rl.rewards.mode, "method": rl.advantage}
        return group_advantages(
            components, group_ids, self.weights, self.floors, target, **settings, clip=rl.advantage_clip
        )


def group_advantages(
    components: dict[str, Tensor],
    group_ids: Int[Tensor, " b"],
    weights: dict[str, float],
    floors: dict[str, float],
    target: Bool[Tensor, "b n"],
    *,
    mode: str,
    method: str,
    clip: float,
) -> Float[Tensor, " b"] | Float[Tensor, "b n"]:
    """Rewards added by `mode` (MODES) and compared within groups by `method` (METHODS); clipped to +-`clip`.

    A group must be here whole. Its advantages sum to zero before clipping; a group whose rewards are all equal gets
    exactly zero. A reward that does not apply to a sample moves it nowhere: it counts as the mean of its group.

    Args:
        components: raw scores by reward, of shape `b`, or `b n` where each frame has its own; higher is better, NaN where
            one does not apply. One reward of frames gives every frame its own advantage: each is compared with the
            same frame of the other samples.
        group_ids: which prompt a sample answers; any integers, in any order.
        weights: of each reward.
        floors: the least standard deviation to divide a reward by, in its units: noise below it stays small.
        target: True on generated frames; the others get zero where frames have advantages of their own.
    """
    _, group = torch.unique(group_ids, return_inverse=True)
    complete = {name: fill_missing(score.float(), group) for name, score in components.items()}
    scaled = [weights[name] * MODES[mode](score, group, floors[name], target) for name, score in complete.items()]
    by_frame = any(score.ndim == 2 for score in scaled)
    total = torch.stack(torch.broadcast_tensors(*(as_rows(score) if by_frame else score for score in scaled))).sum(
        dim=0
    )
    total = METHODS[method](total, group, target).clamp(-clip, clip)
    return total.masked_fill(~target, 0.0) if by_frame else total


def fill_missing(scores: Float[Tensor, "b ..."], group: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """Scores with the mean of those of the group in place of NaN, zero where the whole group has none."""
    known = ~scores.isnan()
    known_share = group_mean(known.float(), group)
    mean = group_mean(scores.nan_to_num(0.0), group) / known_share.clamp(min=MIN_STD)
    return scores.where(known, mean[group])


def batch_std(scores: Float[Tensor, "b ..."], target: Bool[Tensor, "b n"]) -> float:
    """Standard deviation over all samples, of frames over those that were generated."""
    generated = scores if scores.ndim == 1 else scores.expand_as(target)[target]
    return generated.std(correction=0).clamp(min=MIN_STD).item()


def as_rows(scores: Tensor) -> Float[Tensor, "b n"]:
    """`b` as one column, `b n` as it is."""
    return scores[:, None] if scores.ndim == 1 else scores


# --- how a reward is scaled before all are added; groups are numbered from 0 ---


def unscaled(scores: Tensor, group: Tensor, floor: float, target: Tensor) -> Tensor:
    return scores


def scale_by_batch_std(scores: Tensor, group: Tensor, floor: float, target: Tensor) -> Tensor:
    """r / max(std, floor), over all samples of the update; its mean is the same for all and would cancel."""
    return scores / max(batch_std(scores, target), floor)


def rank_in_group(scores: Tensor, group: Tensor, floor: float, target: Tensor) -> Tensor:
    """The place of each among its group, from 0 (lowest) to 1; equals share the mean of their places."""
    result = torch.zeros_like(scores)
    for number in range(int(group.max()) + 1):
        rows = scores[group == number]
        above, ties = (rows[:, None] > rows).sum(dim=1), (rows[:, None] == rows).sum(dim=1) - 1
        result[group == number] = (above + ties / 2) / max(len(rows) - 1, 1)
    return result


def zscore_in_group(scores: Tensor, group: Tensor, floor: float, target: Tensor) -> Tensor:
    """(r - mean_g) / max(std_g, floor), with biased standard deviations."""
    return subtract_group_mean(scores, group) / group_std(scores, group).clamp(min=max(floor, MIN_STD))[group]


# rl.rewards.mode
MODES: dict[str, ScaleReward] = {
    "sum": unscaled,
    "normalized_sum": scale_by_batch_std,
    "rank_shaping": rank_in_group,
    "gdpo": zscore_in_group,  # each reward counts alike, whatever its spread (arXiv 2601.05242)
}


# --- how their sum becomes an advantage ---


def gdpo_normalize(scores: Tensor, group: Tensor, target: Tensor) -> Tensor:
    """R - mean_g, over the update's spread of that if there are enough groups to know it."""
    centered = subtract_group_mean(scores, group)
    return centered / batch_std(centered, target) if int(group.max()) + 1 >= MIN_GROUPS else centered


def grpo_zscore(scores: Tensor, group: Tensor, target: Tensor) -> Tensor:
    """(R - mean_g) / (std_g + ε)."""
    return subtract_group_mean(scores, group) / (group_std(scores, group)[group] + EPS)


def center_in_group(scores: Tensor, group: Tensor, target: Tensor) -> Tensor:
    """R - mean_g."""
    return subtract_group_mean(scores, group)


def center_over_global_std(scores: Tensor, group: Tensor, target: Tensor) -> Tensor:
    """(R - mean_g) / std over all samples of the update."""
    return subtract_group_mean(scores, group) / batch_std(scores, target)


def leave_one_out(scores: Tensor, group: Tensor, target: Tensor) -> Tensor:
    """R - mean of the group's other samples = (R - mean_g) G / (G - 1)."""
    size = torch.bincount(group)[group].view(-1, *[1] * (scores.ndim - 1))
    return subtract_group_mean(scores, group) * size / (size - 1).clamp(min=1)


# rl.advantage
METHODS: dict[str, ScaleTotal] = {
    "gdpo": gdpo_normalize,
    "grpo": grpo_zscore,  # Shao et al. 2024, arXiv 2402.03300
    "dr_grpo": center_in_group,  # no bias towards groups of little spread (Liu et al. 2025, arXiv 2503.20783)
    "global_std": center_over_global_std,
    "rloo": leave_one_out,  # Ahmadian et al. 2024, arXiv 2402.14740
}


# --- statistics of groups ---


def subtract_group_mean(scores: Float[Tensor, "b ..."], group: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """r - mean_g, exactly zero where all of a group scored the same."""
    return (scores - group_mean(scores, group)[group]).masked_fill(is_constant_group(scores, group), 0.0)


def group_std(scores: Float[Tensor, "b ..."], group: Int[Tensor, " b"]) -> Float[Tensor, "g ..."]:
    """Standard deviation of each group, biased: divided by the group's size."""
    return group_mean((scores - group_mean(scores, group)[group]).square(), group).sqrt()


def group_mean(scores: Float[Tensor, "b ..."], group: Int[Tensor, " b"]) -> Float[Tensor, "g ..."]:
    """Mean over each group."""
    sums = scores.new_zeros(int(group.max()) + 1, *scores.shape[1:]).index_add(0, group, scores)
    return (sums.movedim(0, -1) / torch.bincount(group)).movedim(-1, 0)


def is_constant_group(scores: Float[Tensor, "b ..."], group: Int[Tensor, " b"]) -> Bool[Tensor, "b ..."]:
    """True where all of a sample's group scored the same."""
    empty = scores.new_empty(int(group.max()) + 1, *scores.shape[1:])
    index = group.view(-1, *[1] * (scores.ndim - 1)).expand_as(scores)
    low = empty.scatter_reduce(0, index, scores, "amin", include_self=False)
    high = empty.scatter_reduce(0, index, scores, "amax", include_self=False)
    return (low == high)[group]


def zero_std_groups(components: dict[str, Tensor], group_ids: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
    """True for samples of a group in which every reward gave every sample the same."""
    _, group = torch.unique(group_ids, return_inverse=True)
    return torch.stack(
        [is_constant_group(fill_missing(score.float(), group), group) for score in components.values()]
    ).all(dim=0)


# --- without a group ---


class RunningBaseline:
    """For groups of one: each reward against its own running mean and standard deviation, over about MEMORY samples.

    A = Σ_j w_j (r_j - mean_j) / max(std_j, floor_j), clipped; mean and deviation are those before the update, and the
    first update of all is compared with itself. A reward that does not apply moves nothing. Noisier than a group: what
    is hard about a prompt does not cancel.
    """

    def __init__(self, weights: dict[str, float], floors: dict[str, float], *, clip: float) -> None:
        self.weights, self.floors, self.clip = weights, floors, clip
        self.moments: dict[str, list[float]] = {}  # of each reward: samples so far, mean, mean square

    def __call__(self, components: dict[str, Tensor], group_ids: Tensor, target: Tensor) -> Tensor:
        scores = {name: sample_mean(score.double(), target) for name, score in components.items()}
        known = {name: score[~score.isnan()] for name, score in scores.items() if not score.isnan().all()}
        for name, score in known.items():
            self.moments.setdefault(name, [0.0, *moments(score)])
        weighted = [
            self.weights[name] * self.standardize(name, score) for name, score in scores.items() if name in known
        ]
        total = torch.stack([torch.zeros(len(target), dtype=torch.double), *weighted]).nansum(dim=0)
        for name, score in known.items():
            self.add(name, score)
        return total.clamp(-self.clip, self.clip).float()

    def standardize(self, name: str, score: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        _, mean, square = self.moments[name]
        return (score - mean) / max((square - mean**2) ** 0.5 if square > mean**2 else 0.0, self.floors[name], MIN_STD)

    def add(self, name: str, score: Float[Tensor, " b"]) -> None:
        """Averages of all samples so far, later of the last MEMORY: an older one fades."""
        count, *old = self.moments[name]
        weight = len(score) / min(count + len(score), max(BASELINE_WINDOW, len(score)))
        new = [
            (1 - weight) * previous + weight * current for previous, current in zip(old, moments(score), strict=True)
        ]
        self.moments[name] = [count + len(score), *new]

    def state_dict(self) -> dict[str, list[float]]:
        return dict(self.moments)

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self.moments = dict(state)


def moments(score: Float[Tensor, " b"]) -> tuple[float, float]:
    """Mean, and mean of the squares."""
    return score.mean().item(), score.square().mean().item()


def sample_mean(score: Float[Tensor, "b ..."], target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """One number a sample: of frames the mean over those that were generated."""
    if score.ndim == 1:
        return score
    return score.masked_fill(~target, 0.0).sum(dim=1) / target.sum(dim=1)
