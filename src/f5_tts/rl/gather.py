"""Rewards, groups and masks of all ranks, gathered so that samples are compared over all of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from f5_tts.types import RewardBatch, Rollout

T = TypeVar("T")


@runtime_checkable
class Ranks(Protocol):
    """All ranks of a run, as seen by one rank that compares its samples with those of the others."""

    @property
    def world_size(self) -> int:
        """Return the number of ranks."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Gather the rows of all ranks, in the order of the ranks; frames are padded to the longest."""
        ...

    def local_rows(self, rows: Tensor) -> Tensor:
        """Select the rows of this rank from gathered rows, padding included."""
        ...

    def raise_on_all_ranks(self) -> AbstractContextManager[None]:
        """Raise an error on all ranks when the body fails on one, so that no rank waits for it forever."""
        ...


class SingleRank:
    """Ranks of a run of one process: gathering changes nothing."""

    world_size, rank = 1, 0

    def gather_objects(self, value: T) -> list[T]:
        """Return the object of the only rank."""
        return [value]

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows unchanged."""
        return rows

    def local_rows(self, rows: Tensor) -> Tensor:
        """Return the rows unchanged."""
        return rows

    def raise_on_all_ranks(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: no other rank waits for this one."""
        return nullcontext()


def concat_rewards(batches: list[RewardBatch]) -> RewardBatch:
    """Concatenate the rewards of several rollouts."""
    first = batches[0]
    components = {name: torch.cat([batch.components[name] for batch in batches]) for name in first.components}
    diagnostics = {name: torch.cat([batch.diagnostics[name] for batch in batches]) for name in first.diagnostics}
    frame_scores = {
        name: pad_and_concat([batch.frame_scores[name] for batch in batches]) for name in first.frame_scores
    }
    texts = {name: [text for batch in batches for text in batch.texts[name]] for name in first.texts}
    total = torch.cat([batch.total for batch in batches])
    return replace(
        first, total=total, components=components, diagnostics=diagnostics, frame_scores=frame_scores, texts=texts
    )


def gather_rewards(rewards: RewardBatch, ranks: Ranks) -> RewardBatch:
    """Gather the rewards of all ranks; texts, which are not compared, are left out."""
    fields = {
        "components": rewards.components,
        "diagnostics": rewards.diagnostics,
        "frame_scores": rewards.frame_scores,
    }
    gathered = {
        field: {name: ranks.gather(score) for name, score in by_name.items()} for field, by_name in fields.items()
    }
    return replace(rewards, total=ranks.gather(rewards.total), texts={}, **gathered)


def pad_and_concat(rows: list[Tensor]) -> Tensor:
    """Concatenate rows of frames of several rollouts, padded to the longest."""
    length = max(block.shape[1] for block in rows)
    return torch.cat([torch.nn.functional.pad(block, (0, length - block.shape[1])) for block in rows])


def crop_to_rollout(advantages: Tensor, rollout: Rollout) -> Tensor:
    """Crop frame advantages to the length of the rollout, and move advantages to its device."""
    return (advantages if advantages.ndim == 1 else advantages[:, : rollout.mel.shape[1]]).to(rollout.mel)


@dataclass(frozen=True, kw_only=True, slots=True)
class GatheredRewards:
    """Rewards, group ids and masks of all ranks, in the order of the ranks."""

    rewards: RewardBatch
    group_ids: Int[Tensor, " b"]
    target_mask: Bool[Tensor, "b n"]  # generated frames, padded to the longest rollout
    sample_weight: float  # weight of one sample in an update; the gradients of ranks are averaged, not added
    rollouts: list[Rollout]  # rollouts of this rank only

    def by_rollout(self, advantages: Tensor, ranks: Ranks) -> list[Tensor]:
        """Split the advantages of all ranks into those of each rollout of this rank."""
        rows_by_rollout = ranks.local_rows(advantages).split([len(rollout.mel) for rollout in self.rollouts])
        return [crop_to_rollout(rows, rollout) for rows, rollout in zip(rows_by_rollout, self.rollouts, strict=True)]


def gather_over_ranks(rollouts: list[Rollout], rewards_by_rollout: list[RewardBatch], ranks: Ranks) -> GatheredRewards:
    """Gather the rewards, groups and masks of all ranks; all ranks get the same result."""
    rewards = gather_rewards(concat_rewards(rewards_by_rollout), ranks)
    group_ids = ranks.gather(torch.cat([rollout.batch.group_ids for rollout in rollouts]).cpu())
    target_mask = ranks.gather(pad_and_concat([rollout.target_mask.cpu() for rollout in rollouts]))
    sample_weight = ranks.world_size / len(group_ids)
    return GatheredRewards(
        rewards=rewards, group_ids=group_ids, target_mask=target_mask, sample_weight=sample_weight, rollouts=rollouts
    )
