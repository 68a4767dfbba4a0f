"""The other processes of a run: what is compared among all samples of an update, and what all must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from f5_tts.model.fsdp import is_dtensor


class AllRanks:
    """All processes of a run, through accelerate: torch.distributed underneath."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.world_size = accelerator, accelerator.num_processes
        self.counts: list[int] = []

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all processes in their order; where these have different numbers of rows or frames, the padding is
        taken out again, of rows, and filled with zeros, of frames."""
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
        if self.world_size == 1:
            return rows
        first = sum(self.counts[: self.accelerator.process_index])
        return rows[first : first + self.counts[self.accelerator.process_index]]

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """What fails inside, on whichever process, ends all of them with a sentence: none waits for one gone."""
        error = None
        try:
            yield
        except Exception as caught:  # raised again below
            error = caught
        messages = gather_object([error and f"{type(error).__name__}: {error}"]) if self.world_size > 1 else []
        if error is not None:
            raise error
        for process, message in enumerate(messages):
            if message is not None:
                raise ValueError(f"process {process} of {self.world_size} failed: {message}")


def any_rank(flag: bool, accelerator: Accelerator) -> bool:
    """Whether it is so on any process; the same answer on all."""
    if accelerator.num_processes == 1:
        return flag
    count = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum")  # pyright: ignore
    return torch.as_tensor(count).item() > 0


def check_weights_in_sync(model: nn.Module, accelerator: Accelerator, update: int) -> dict[str, float]:
    """On how many processes weights differ from the first's, in any bit: none; said of several that have them all.

    Raises ValueError if there is one, on all of them: what they learn would no longer be one model.
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
            "that computes wrongly, or a reward or loss of yours that changes the model; the last checkpoint is whole"
        )
    return {"health/weights_apart": 0.0}
