"""Rewards -> advantages: how much better a sample is than the others drawn for its prompt (pure)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MIN_GROUPS = 8  # from here on the spread over an update is worth dividing by
TINY = 1e-8  # keeps a division by no spread finite


def group_advantages(
    parts: dict[str, Tensor],
    group_ids: Int[Tensor, " b"],
    weights: dict[str, float],
    floors: dict[str, float],
    clip: float,
    target: Bool[Tensor, "b n"],
) -> Float[Tensor, " b"] | Float[Tensor, "b n"]:
    """Each reward centred and scaled within its group, then added up by weight (GDPO).

    A = Σ_j w_j (r_j - mean_g r_j) / max(std_g r_j, floor_j), with biased standard deviations; from 8 groups on
    divided by its standard deviation over all samples (or their generated frames); clipped. A group must be here
    whole. Its advantages sum to zero before clipping; a group whose rewards are all equal gets exactly zero.

    Args:
        parts: raw scores by reward, of shape `b`, or `b n` where each frame has its own; higher is better. One such
            reward gives every frame its own advantage: each is compared with the same frame of the other samples.
        group_ids: which prompt a sample answers; any integers, in any order.
        weights: of each reward.
        floors: the least standard deviation to divide by, in units of that reward: noise below it stays small.
        clip: largest magnitude of an advantage.
        target: True on generated frames; the others get zero where frames have advantages of their own.
    """
    scaled = [weights[name] * standardise(score.float(), group_ids, floors[name]) for name, score in parts.items()]
    by_frame = any(score.ndim == 2 for score in scaled)
    total = torch.stack(torch.broadcast_tensors(*(as_rows(part) if by_frame else part for part in scaled))).sum(dim=0)
    if len(group_ids.unique()) >= MIN_GROUPS:
        counted = total.expand_as(target)[target] if by_frame else total
        total = total / counted.std(correction=0).clamp(min=TINY)
    total = total.clamp(-clip, clip)
    return total.masked_fill(~target, 0.0) if by_frame else total


def as_rows(scores: Tensor) -> Float[Tensor, "b n"]:
    """`b` as one column, `b n` as it is."""
    return scores[:, None] if scores.ndim == 1 else scores


def standardise(scores: Float[Tensor, "b ..."], group_ids: Int[Tensor, " b"], floor: float) -> Float[Tensor, "b ..."]:
    """(r - mean) / max(std, floor) within each group; exactly zero where all members scored the same."""
    _, group = torch.unique(group_ids, return_inverse=True)
    centred = scores - group_mean(scores, group)[group]
    deviation = group_mean(centred.square(), group).sqrt()
    scaled = centred / deviation.clamp(min=max(floor, TINY))[group]
    return scaled.masked_fill(is_equal(scores, group), 0.0)


def group_mean(scores: Float[Tensor, "b ..."], group: Int[Tensor, " b"]) -> Float[Tensor, "g ..."]:
    """Mean over each group; groups are numbered from 0."""
    sums = scores.new_zeros(int(group.max()) + 1, *scores.shape[1:]).index_add(0, group, scores)
    return (sums.movedim(0, -1) / torch.bincount(group)).movedim(-1, 0)


def is_equal(scores: Float[Tensor, "b ..."], group: Int[Tensor, " b"]) -> Bool[Tensor, "b ..."]:
    """True where all of a sample's group scored the same; groups are numbered from 0."""
    empty = scores.new_empty(int(group.max()) + 1, *scores.shape[1:])
    place = group.view(-1, *[1] * (scores.ndim - 1)).expand_as(scores)
    low = empty.scatter_reduce(0, place, scores, "amin", include_self=False)
    high = empty.scatter_reduce(0, place, scores, "amax", include_self=False)
    return (low == high)[group]


def without_spread(parts: dict[str, Tensor], group_ids: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
    """True for samples of a group in which every reward gave every sample the same."""
    _, group = torch.unique(group_ids, return_inverse=True)
    return torch.stack([is_equal(score, group) for score in parts.values()]).all(dim=0)
