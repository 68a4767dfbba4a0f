"""Rows that cannot be used: reported once, counted and left out; a run in which they become an outage ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from f5_tts.data.batching import LoadedBatch
from f5_tts.train.train_state import DataPosition
from f5_tts.types import BadRow, SpeechBatch


class OutageWatch:
    """Watch for an outage: batches in a row without a usable row, on any rank.

    An outage is `max_empty` such batches in a row of one rank, or all rows of the data set.
    """

    def __init__(self, num_rows: int, max_empty: int) -> None:
        self.num_rows, self.max_empty = num_rows, max_empty
        self.empty: dict[int, list[dict[int, BadRow]]] = {}  # rank -> bad rows of each of its last batches

    def __call__(self, states: Sequence[tuple[bool, list[BadRow]]]) -> None:
        """Note whether the batch of each rank has a usable row, and its bad rows; raise ValueError in an outage."""
        for rank, (has_rows, bad_rows) in enumerate(states):
            batch = {row.index: row for row in bad_rows}
            self.empty[rank] = [] if has_rows else [*self.empty.get(rank, []), batch]
        tried = {index: row for batches in self.empty.values() for batch in batches for index, row in batch.items()}
        in_a_row = max(map(len, self.empty.values()))
        if in_a_row >= self.max_empty or len(tried) >= self.num_rows:
            raise ValueError(
                f"{all_rows_bad(list(tried.values()))}; {in_a_row} batches in a row have nothing to read, as in "
                "an outage (is the drive there?): the same command reads them again, and goes past them with a "
                f"higher datasets.max_empty_batches={self.max_empty}"
            )


def usable_batches(
    loaded: Iterable[LoadedBatch],
    start: DataPosition,
    watch: OutageWatch,
    accelerator: Accelerator,
    log: Callable[[str], None] = tqdm.write,  # prints above the progress bar
) -> Iterator[tuple[SpeechBatch, DataPosition]]:
    """Yield each batch of good rows with the position after it; all ranks pass over one that is empty on any rank.

    A bad row that is not in the start position is reported. Raises ValueError on all ranks in an outage.
    """
    position = start
    for batch, local_bad_rows in loaded:
        states = gather_from_ranks((batch is not None, local_bad_rows), accelerator)
        bad_rows = {row.index: row for _, rows in states for row in rows}
        if accelerator.is_main_process:
            for row in bad_rows.values():
                if row.index not in position.bad_rows:
                    log(f"row {row.index} of the data set is left out ({row.kind}): {row.reason}")
        position = replace(position, batches=position.batches + len(states), bad_rows=position.bad_rows.union(bad_rows))
        watch(states)
        if batch is not None and all(has_rows for has_rows, _ in states):
            yield batch, position
        elif accelerator.is_main_process:
            log("no row of a batch can be read: the batch is passed over")


def gather_from_ranks(local: tuple[bool, list[BadRow]], accelerator: Accelerator) -> list[tuple[bool, list[BadRow]]]:
    """Gather the batch states and bad rows of all ranks."""
    return gather_object([local]) if accelerator.num_processes > 1 else [local]


def all_rows_bad(rows: Sequence[BadRow]) -> ValueError:
    """Build the error for rows none of which can be used; it names the first one."""
    first = min(rows, key=lambda row: row.index)
    return ValueError(
        f"none of the {len(rows)} rows tried can be used; row {first.index} is {first.kind}: {first.reason} (f5-tts "
        "check-dataset and the data set's folder shows all)"
    )
