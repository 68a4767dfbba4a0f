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
class Peers(Protocol):
    """All processes of a run, when samples of one are compared with those of the others."""

    @property
    def world(self) -> int:
        """How many there are."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of every process, in their order; frames are padded to the longest."""
        ...

    def own(self, rows: Tensor) -> Tensor:
        """Of gathered rows those of this process, padding included."""
        ...

    def failing_together(self) -> AbstractContextManager[None]:
        """What fails inside on one process fails on all, so that none waits for it."""
        ...


class Alone:
    """One process: its samples are all."""

    world = 1

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    def own(self, rows: Tensor) -> Tensor:
        return rows

    def failing_together(self) -> AbstractContextManager[None]:
        return nullcontext()


def join(batches: list[RewardBatch]) -> RewardBatch:
    """The rewards of several rollouts as those of one."""
    first = batches[0]
    parts = {name: torch.cat([batch.parts[name] for batch in batches]) for name in first.parts}
    reported = {name: torch.cat([batch.reported[name] for batch in batches]) for name in first.reported}
    frames = {name: padded([batch.frames[name] for batch in batches]) for name in first.frames}
    texts = {name: [text for batch in batches for text in batch.texts[name]] for name in first.texts}
    total = torch.cat([batch.total for batch in batches])
    return replace(first, total=total, parts=parts, reported=reported, frames=frames, texts=texts)


def gathered(rewards: RewardBatch, peers: Peers) -> RewardBatch:
    """The rewards of all processes; texts, which nobody compares, stay with their own."""
    kinds = {"parts": rewards.parts, "reported": rewards.reported, "frames": rewards.frames}
    of_all = {kind: {name: peers.gather(score) for name, score in part.items()} for kind, part in kinds.items()}
    return replace(rewards, total=peers.gather(rewards.total), texts={}, **of_all)


def padded(rows: list[Tensor]) -> Tensor:
    """Rows of frames of several rollouts as one tensor, of the longest's length."""
    length = max(part.shape[1] for part in rows)
    return torch.cat([torch.nn.functional.pad(part, (0, length - part.shape[1])) for part in rows])


def fitted(advantages: Tensor, rollout: Rollout) -> Tensor:
    """Advantages where the rollout is, those of frames cut to its length."""
    return (advantages if advantages.ndim == 1 else advantages[:, : rollout.mel.shape[1]]).to(rollout.mel)


@dataclass(frozen=True, kw_only=True, slots=True)
class GatheredRewards:
    """What samples of all ranks are compared by, in the order of the ranks."""

    rewards: RewardBatch
    group_ids: Int[Tensor, " b"]
    target: Bool[Tensor, "b n"]  # generated frames, padded to the longest rollout
    share: float  # of one sample in an update; ranks' gradients are averaged, not added
    rollouts: list[Rollout]  # of this rank alone

    def by_rollout(self, compared: Tensor, peers: Peers) -> list[Tensor]:
        """Return of all ranks' advantages those of each rollout of this rank."""
        parts = peers.own(compared).split([len(rollout.mel) for rollout in self.rollouts])
        return [fitted(part, rollout) for part, rollout in zip(parts, self.rollouts, strict=True)]


def over_ranks(rollouts: list[Rollout], scored: list[RewardBatch], peers: Peers) -> GatheredRewards:
    """Gather the rewards, groups and masks of all ranks; every rank gets the same."""
    rewards = gathered(join(scored), peers)
    group_ids = peers.gather(torch.cat([rollout.batch.group_ids for rollout in rollouts]).cpu())
    target = peers.gather(padded([rollout.target.cpu() for rollout in rollouts]))
    share = peers.world / len(group_ids)
    return GatheredRewards(rewards=rewards, group_ids=group_ids, target=target, share=share, rollouts=rollouts)
