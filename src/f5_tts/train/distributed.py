"""Distributed operations over ranks: gathered samples, shared errors and flags, and equality of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from f5_tts.model.fsdp import is_dtensor
from f5_tts.plugins import USERS_CODE, exit_is_error
from f5_tts.rl.gather import SingleRank

T = TypeVar("T")
ON_ALL_RANKS = "_f5_tts_on_all_ranks"  # attribute of errors that every rank raises


class AllRanks:
    """All ranks of a run, through accelerate and torch.distributed."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.world_size = accelerator, accelerator.num_processes
        self.rank = accelerator.process_index
        self.counts: list[int] = []

    def gather(self, rows: Tensor) -> Tensor:
        """Gather the rows of all ranks, in the order of the ranks.

        Ranks may have different numbers of rows and frames: rows of padding are removed again, missing frames are
        filled with zeros.
        """
        if self.world_size == 1:
            return rows
        counts = gather_object([len(rows)])
        self.counts = counts
        padded = (rows.byte() if rows.dtype == torch.bool else rows).to(self.accelerator.device)
        for dim in range(rows.ndim):
            padded = self.accelerator.pad_across_processes(padded, dim=dim)
        gathered = self.accelerator.gather(padded)
        assert isinstance(gathered, Tensor)
        blocks = gathered.to("cpu", rows.dtype).split(max(counts))
        return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])

    def local_rows(self, rows: Tensor) -> Tensor:
        """Select this rank's rows from gathered rows."""
        if self.world_size == 1:
            return rows
        first = sum(self.counts[: self.rank])
        return rows[first : first + self.counts[self.rank]]

    def gather_objects(self, value: T) -> list[T]:
        """Gather an object of each rank, in the order of the ranks; all ranks get all of them."""
        return gather_object([value]) if self.world_size > 1 else [value]

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """Raise ValueError on all ranks when the body fails on any, so that no rank waits for one that ended."""
        error = None
        try:
            with exit_is_error(USERS_CODE):
                yield
        except Exception as caught:  # raised again below
            error = caught
        messages = self.gather_objects(error and f"{type(error).__name__}: {error}")
        if error is None:
            failures = [(process, message) for process, message in enumerate(messages) if message is not None]
            if not failures:
                return
            error = ValueError(f"process {failures[0][0]} of {self.world_size} failed: {failures[0][1]}")
        setattr(error, ON_ALL_RANKS, True)
        raise error


RanksOfRun: TypeAlias = AllRanks | SingleRank


def is_on_all_ranks(error: BaseException | None) -> bool:
    """Check whether `raise_on_all_ranks` raised this error or its cause, so that all ranks are at the same point."""
    return error is not None and (hasattr(error, ON_ALL_RANKS) or is_on_all_ranks(error.__cause__))


def any_rank(flag: bool, accelerator: Accelerator) -> bool:
    """Check whether a flag is set on any rank; all ranks get the same answer."""
    if accelerator.num_processes == 1:
        return flag
    count = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum")  # pyright: ignore
    return torch.as_tensor(count).item() > 0


def check_weights_in_sync(model: nn.Module, accelerator: Accelerator, update: int) -> dict[str, float]:
    """Check that the weights of all ranks are bit for bit equal.

    Returns the number of ranks that differ, 0, as a metric. Raises ValueError on all ranks if one differs, since the
    ranks then train different models. With one rank or sharded weights there is nothing to compare, and no metric.
    """
    if accelerator.num_processes == 1 or any(map(is_dtensor, model.parameters())):
        return {}
    sums = torch.stack([value.detach().view(torch.int32).sum(dtype=torch.int64) for value in model.parameters()])
    gathered = accelerator.gather(sums[None])
    assert isinstance(gathered, Tensor)
    differing = (gathered != gathered[0]).any(dim=1).nonzero().flatten().tolist()
    if differing:
        raise ValueError(
            f"after update {update} the weights of processes {differing} are no longer those of process 0: a machine "
            "computes wrongly, or a reward or loss of your own changes the model; the last checkpoint is complete"
        )
    return {"health/weights_apart": 0.0}
