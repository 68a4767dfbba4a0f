"""Rewards, groups and masks of all ranks, gathered so that samples are compared across them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from f5_tts.types import RewardBatch, Rollout


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
