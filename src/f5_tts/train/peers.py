"""The other processes of a run: what is compared among all samples of an update, whoever drew them."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor


class Together:
    """All processes of a run, through accelerate: torch.distributed underneath."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.world = accelerator, accelerator.num_processes
        self.counts: list[int] = []

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all processes in their order; where these have different numbers of rows or frames, the padding is
        taken out again, of rows, and filled with zeros, of frames."""
        if self.world == 1:
            return rows
        counts = gather_object([len(rows)])
        self.counts = counts
        filled = (rows.byte() if rows.dtype == torch.bool else rows).to(self.accelerator.device)
        for dim in range(rows.ndim):
            filled = self.accelerator.pad_across_processes(filled, dim=dim)
        every = self.accelerator.gather(filled)
        assert isinstance(every, Tensor)
        blocks = every.to("cpu", rows.dtype).split(max(counts))
        return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])

    def own(self, rows: Tensor) -> Tensor:
        if self.world == 1:
            return rows
        first = sum(self.counts[: self.accelerator.process_index])
        return rows[first : first + self.counts[self.accelerator.process_index]]
