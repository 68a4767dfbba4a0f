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
) -> Float[Tensor, " b"]:
    """Each reward centred and scaled within its group, then added up by weight (GDPO).

    A = Σ_j w_j (r_j - mean_g r_j) / max(std_g r_j, floor_j), with biased standard deviations; from 8 groups on
    divided by its standard deviation over all samples; clipped. A group must be here whole. Its advantages sum to
    zero before clipping; a group whose rewards are all equal gets exactly zero.

    Args:
        parts: raw scores by reward, each of shape `b`; higher is better.
        group_ids: which prompt a sample answers; any integers, in any order.
        weights: of each reward.
        floors: the least standard deviation to divide by, in units of that reward: noise below it stays small.
        clip: largest magnitude of an advantage.
    """
    total = sum(weights[name] * standardise(score.float(), group_ids, floors[name]) for name, score in parts.items())
    assert isinstance(total, Tensor)
    if len(group_ids.unique()) >= MIN_GROUPS:
        total = total / total.std(correction=0).clamp(min=TINY)
    return total.clamp(-clip, clip)


def standardise(scores: Float[Tensor, " b"], group_ids: Int[Tensor, " b"], floor: float) -> Float[Tensor, " b"]:
    """(r - mean) / max(std, floor) within each group; exactly zero where all members scored the same."""
    _, group = torch.unique(group_ids, return_inverse=True)
    size = torch.bincount(group).to(scores)
    centred = scores - (torch.zeros_like(size).index_add(0, group, scores) / size)[group]
    variance = torch.zeros_like(size).index_add(0, group, centred.square()) / size
    scaled = centred / variance.sqrt().clamp(min=max(floor, TINY))[group]
    return scaled.masked_fill(is_equal(scores, group), 0.0)


def is_equal(scores: Float[Tensor, " b"], group: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
    """True for samples whose whole group scored the same; groups are numbered from 0."""
    low = torch.full((int(group.max()) + 1,), torch.inf).to(scores).scatter_reduce(0, group, scores, "amin")
    high = torch.full_like(low, -torch.inf).scatter_reduce(0, group, scores, "amax")
    return (low == high)[group]


def without_spread(parts: dict[str, Tensor], group_ids: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
    """True for samples of a group in which every reward gave every sample the same."""
    _, group = torch.unique(group_ids, return_inverse=True)
    return torch.stack([is_equal(score, group) for score in parts.values()]).all(dim=0)
