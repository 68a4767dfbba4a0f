"""Rewards, groups and masks of all ranks, gathered so that samples are compared across them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from f5_tts.types import RewardBatch, Rollout


@runtime_checkable
class Ranks(Protocol):
    """All processes of a run, when samples of one are compared with those of the others."""

    @property
    def world_size(self) -> int:
        """How many there are."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of every process, in their order; frames are padded to the longest."""
        ...

    def local_rows(self, rows: Tensor) -> Tensor:
        """Of gathered rows those of this process, padding included."""
        ...

    def raise_on_all_ranks(self) -> AbstractContextManager[None]:
        """What fails inside on one process fails on all, so that none waits for it."""
        ...


class SingleRank:
    """One process: its samples are all."""

    world_size = 1

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    def local_rows(self, rows: Tensor) -> Tensor:
        return rows

    def raise_on_all_ranks(self) -> AbstractContextManager[None]:
        return nullcontext()


def concat_rewards(batches: list[RewardBatch]) -> RewardBatch:
    """The rewards of several rollouts as those of one."""
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
    """The rewards of all processes; texts, which nobody compares, stay with their own."""
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
    """Rows of frames of several rollouts as one tensor, of the longest's length."""
    length = max(block.shape[1] for block in rows)
    return torch.cat([torch.nn.functional.pad(block, (0, length - block.shape[1])) for block in rows])


def crop_to_rollout(advantages: Tensor, rollout: Rollout) -> Tensor:
    """Advantages where the rollout is, those of frames cut to its length."""
    return (advantages if advantages.ndim == 1 else advantages[:, : rollout.mel.shape[1]]).to(rollout.mel)


@dataclass(frozen=True, kw_only=True, slots=True)
class GatheredRewards:
    """What samples of all ranks are compared by, in the order of the ranks."""

    rewards: RewardBatch
    group_ids: Int[Tensor, " b"]
    target_mask: Bool[Tensor, "b n"]  # generated frames, padded to the longest rollout
    sample_weight: float  # of one sample in an update; ranks' gradients are averaged, not added
    rollouts: list[Rollout]  # of this rank alone

    def by_rollout(self, advantages: Tensor, ranks: Ranks) -> list[Tensor]:
        """Return of all ranks' advantages those of each rollout of this rank."""
        rows_by_rollout = ranks.local_rows(advantages).split([len(rollout.mel) for rollout in self.rollouts])
        return [crop_to_rollout(rows, rollout) for rows, rollout in zip(rows_by_rollout, self.rollouts, strict=True)]


def gather_over_ranks(rollouts: list[Rollout], rewards_by_rollout: list[RewardBatch], ranks: Ranks) -> GatheredRewards:
    """Gather the rewards, groups and masks of all ranks; every rank gets the same."""
    rewards = gather_rewards(concat_rewards(rewards_by_rollout), ranks)
    group_ids = ranks.gather(torch.cat([rollout.batch.group_ids for rollout in rollouts]).cpu())
    target_mask = ranks.gather(pad_and_concat([rollout.target_mask.cpu() for rollout in rollouts]))
    sample_weight = ranks.world_size / len(group_ids)
    return GatheredRewards(
        rewards=rewards, group_ids=group_ids, target_mask=target_mask, sample_weight=sample_weight, rollouts=rollouts
    )
