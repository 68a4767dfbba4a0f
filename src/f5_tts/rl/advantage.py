"""Group-relative advantages: how much better a sample scored than the others of its prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from f5_tts.config.schema import RLConfig

MIN_GROUPS = 8  # with fewer groups the standard deviation over an update is not reliable enough to divide by
MIN_STD = 1e-8  # smallest divisor, so that zero deviations give finite results
EPS = 1e-4  # grpo: added to a group's standard deviation, in units of the total reward
BASELINE_WINDOW = 64  # number of samples that a running baseline averages over

ScaleReward = Callable[[Tensor, Tensor, float, Tensor], Tensor]  # scores b ..., group b, floor, target b n
ScaleTotal = Callable[[Tensor, Tensor, Tensor], Tensor]  # scores b ..., group b, target b n


@runtime_checkable
class AdvantageFn(Protocol):
    """Function that turns the scores of an update, by reward, into advantages of samples or of frames."""

    def __call__(
        self, components: dict[str, Tensor], group_ids: Int[Tensor, " b"], target: Bool[Tensor, "b n"]
    ) -> Float[Tensor, " b"] | Float[Tensor, "b n"]:
        """Compute advantages of shape `b`, or `b n` where a reward has frame scores."""
        ...


class GroupAdvantage:
    """Group-relative advantages with the settings of a run; see `group_advantages`."""

    def __init__(self, weights: dict[str, float], floors: dict[str, float], rl: RLConfig) -> None:
        self.weights, self.floors, self.rl = weights, floors, rl

    def __call__(self, components: dict[str, Tensor], group_ids: Tensor, target: Tensor) -> Tensor:
        """Compute the advantages of an update."""
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
    """Compute advantages within groups: add rewards by `mode` (MODES), compare by `method` (METHODS), clip to ±`clip`.

    The samples of one prompt form a group, and each group must be complete. Its advantages sum to zero before clipping.
    A group whose rewards are all equal gets exactly zero. Where a reward does not apply to a sample (NaN), the mean of
    its group is used, so that this reward does not change the advantage of the sample.

    Raw scores have shape `b`, or `b n` with one score per frame; higher is better. One reward with frame scores is
    enough to make all advantages frame advantages: each frame is compared with the same frame of the other samples, and
    frames outside the target mask get zero. Group ids are any integers in any order. Each reward has a weight and a
    floor: the smallest standard deviation, in its own units, to divide by, so that noise below it is not amplified.
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
    """Replace NaN by the mean of the group's other scores, or by zero where the whole group has none."""
    known = ~scores.isnan()
    known_share = group_mean(known.float(), group)
    mean = group_mean(scores.nan_to_num(0.0), group) / known_share.clamp(min=MIN_STD)
    return scores.where(known, mean[group])


def batch_std(scores: Float[Tensor, "b ..."], target: Bool[Tensor, "b n"]) -> float:
    """Compute the standard deviation over all samples of the update; of frame scores, over the target frames only."""
    generated = scores if scores.ndim == 1 else scores.expand_as(target)[target]
    return generated.std(correction=0).clamp(min=MIN_STD).item()


def as_rows(scores: Tensor) -> Float[Tensor, "b n"]:
    """Reshape scores `b` to one column `b 1`; scores `b n` are returned as they are."""
    return scores[:, None] if scores.ndim == 1 else scores


# --- scaling of each reward before all are added; groups are numbered from 0 ---


def unscaled(scores: Tensor, group: Tensor, floor: float, target: Tensor) -> Tensor:
    """Return the scores unscaled."""
    return scores


def scale_by_batch_std(scores: Tensor, group: Tensor, floor: float, target: Tensor) -> Tensor:
    """Compute r / max(std, floor), with the standard deviation over all samples of the update.

    The mean is not subtracted: it is the same for all samples and cancels within a group.
    """
    return scores / max(batch_std(scores, target), floor)


def rank_in_group(scores: Tensor, group: Tensor, floor: float, target: Tensor) -> Tensor:
    """Compute the rank of each score in its group, from 0 (lowest) to 1; equal scores share their mean rank."""
    result = torch.zeros_like(scores)
    for number in range(int(group.max()) + 1):
        rows = scores[group == number]
        above, ties = (rows[:, None] > rows).sum(dim=1), (rows[:, None] == rows).sum(dim=1) - 1
        result[group == number] = (above + ties / 2) / max(len(rows) - 1, 1)
    return result


def zscore_in_group(scores: Tensor, group: Tensor, floor: float, target: Tensor) -> Tensor:
    """Compute (r - mean_g) / max(std_g, floor), with biased standard deviations."""
    return subtract_group_mean(scores, group) / group_std(scores, group).clamp(min=max(floor, MIN_STD))[group]


# rl.rewards.mode
MODES: dict[str, ScaleReward] = {
    "sum": unscaled,
    "normalized_sum": scale_by_batch_std,
    "rank_shaping": rank_in_group,
    "gdpo": zscore_in_group,  # gives all rewards the same influence, whatever their deviation (arXiv 2601.05242)
}


# --- advantages from the weighted sum ---


def gdpo_normalize(scores: Tensor, group: Tensor, target: Tensor) -> Tensor:
    """Compute R - mean_g, divided by its standard deviation over the update.

    Updates of fewer than MIN_GROUPS groups are not divided, since their standard deviation is not reliable.
    """
    centered = subtract_group_mean(scores, group)
    return centered / batch_std(centered, target) if int(group.max()) + 1 >= MIN_GROUPS else centered


def grpo_zscore(scores: Tensor, group: Tensor, target: Tensor) -> Tensor:
    """Compute (R - mean_g) / (std_g + ε)."""
    return subtract_group_mean(scores, group) / (group_std(scores, group)[group] + EPS)


def center_in_group(scores: Tensor, group: Tensor, target: Tensor) -> Tensor:
    """Compute R - mean_g."""
    return subtract_group_mean(scores, group)


def center_over_global_std(scores: Tensor, group: Tensor, target: Tensor) -> Tensor:
    """Compute (R - mean_g) / std, with the standard deviation over all samples of the update."""
    return subtract_group_mean(scores, group) / batch_std(scores, target)


def leave_one_out(scores: Tensor, group: Tensor, target: Tensor) -> Tensor:
    """Compute R minus the mean of the group's other samples: (R - mean_g) G / (G - 1) for group size G."""
    size = torch.bincount(group)[group].view(-1, *[1] * (scores.ndim - 1))
    return subtract_group_mean(scores, group) * size / (size - 1).clamp(min=1)


# rl.advantage
METHODS: dict[str, ScaleTotal] = {
    "gdpo": gdpo_normalize,
    "grpo": grpo_zscore,  # Shao et al. 2024, arXiv 2402.03300
    "dr_grpo": center_in_group,  # no bias towards groups of small deviation (Liu et al. 2025, arXiv 2503.20783)
    "global_std": center_over_global_std,
    "rloo": leave_one_out,  # Ahmadian et al. 2024, arXiv 2402.14740
}


# --- statistics of groups ---


def subtract_group_mean(scores: Float[Tensor, "b ..."], group: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """Compute r - mean_g, exactly zero where all scores of a group are equal."""
    return (scores - group_mean(scores, group)[group]).masked_fill(is_constant_group(scores, group), 0.0)


def group_std(scores: Float[Tensor, "b ..."], group: Int[Tensor, " b"]) -> Float[Tensor, "g ..."]:
    """Compute the biased standard deviation of each group (divided by the group size)."""
    return group_mean((scores - group_mean(scores, group)[group]).square(), group).sqrt()


def group_mean(scores: Float[Tensor, "b ..."], group: Int[Tensor, " b"]) -> Float[Tensor, "g ..."]:
    """Compute the mean of each group."""
    sums = scores.new_zeros(int(group.max()) + 1, *scores.shape[1:]).index_add(0, group, scores)
    return (sums.movedim(0, -1) / torch.bincount(group)).movedim(-1, 0)


def is_constant_group(scores: Float[Tensor, "b ..."], group: Int[Tensor, " b"]) -> Bool[Tensor, "b ..."]:
    """Check for each sample whether all scores of its group are equal."""
    empty = scores.new_empty(int(group.max()) + 1, *scores.shape[1:])
    index = group.view(-1, *[1] * (scores.ndim - 1)).expand_as(scores)
    low = empty.scatter_reduce(0, index, scores, "amin", include_self=False)
    high = empty.scatter_reduce(0, index, scores, "amax", include_self=False)
    return (low == high)[group]


def zero_std_groups(components: dict[str, Tensor], group_ids: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
    """Check for each sample whether every reward scored all samples of its group the same."""
    _, group = torch.unique(group_ids, return_inverse=True)
    return torch.stack(
        [is_constant_group(fill_missing(score.float(), group), group) for score in components.values()]
    ).all(dim=0)


# --- groups of one ---


class RunningBaseline:
    """Advantages for groups of one: rewards compared with their running mean and standard deviation.

    A = Σ_j w_j (r_j - mean_j) / max(std_j, floor_j), clipped. Mean and standard deviation cover about the last
    BASELINE_WINDOW samples before the update; the first update is compared with itself. A reward that does not apply to
    a sample adds nothing. The estimate is noisier than with groups, since the difficulty of a prompt does not cancel.
    """

    def __init__(self, weights: dict[str, float], floors: dict[str, float], *, clip: float) -> None:
        self.weights, self.floors, self.clip = weights, floors, clip
        self.moments: dict[str, list[float]] = {}  # by reward: number of samples so far, mean, mean square
        self.committed: dict[str, list[float]] = {}  # those after the last whole update

    def __call__(self, components: dict[str, Tensor], group_ids: Tensor, target: Tensor) -> Tensor:
        """Compute the advantages of an update, then add its scores to the running moments."""
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
        """Compute (r - mean) / max(std, floor) with the running moments of one reward."""
        _, mean, square = self.moments[name]
        return (score - mean) / max((square - mean**2) ** 0.5 if square > mean**2 else 0.0, self.floors[name], MIN_STD)

    def add(self, name: str, score: Float[Tensor, " b"]) -> None:
        """Update the running moments of one reward with the scores of an update.

        Up to BASELINE_WINDOW samples the moments are plain averages; after that, older samples decay exponentially.
        """
        count, *old = self.moments[name]
        weight = len(score) / min(count + len(score), max(BASELINE_WINDOW, len(score)))
        new = [
            (1 - weight) * previous + weight * current for previous, current in zip(old, moments(score), strict=True)
        ]
        self.moments[name] = [count + len(score), *new]

    def commit(self) -> None:
        """Take over the moments, because the update whose scores they have is made."""
        self.committed = dict(self.moments)

    def state_dict(self) -> dict[str, list[float]]:
        """Return the running moments by reward after the last whole update, for a checkpoint."""
        return dict(self.committed)

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Restore the running moments from a checkpoint."""
        self.moments = dict(state)
        self.commit()


def moments(score: Float[Tensor, " b"]) -> tuple[float, float]:
    """Compute the mean and the mean square."""
    return score.mean().item(), score.square().mean().item()


def sample_mean(score: Float[Tensor, "b ..."], target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Reduce scores to one number per sample; frame scores are averaged over the target frames."""
    if score.ndim == 1:
        return score
    return score.masked_fill(~target, 0.0).sum(dim=1) / target.sum(dim=1)
