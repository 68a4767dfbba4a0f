"""Rows that cannot be read: reported once, counted and skipped; a run in which no row can be read stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from f5_tts.data.batching import LoadedBatch
from f5_tts.types import BadRow, SpeechBatch

GIVE_UP_AFTER = 64  # number of rows, none of which can be read, after which the run stops


def skip_bad_rows(
    loaded: Iterable[LoadedBatch],
    known_rows: set[int],
    num_rows: int,
    accelerator: Accelerator,
    log: Callable[[str], None] = tqdm.write,  # prints above the progress bar
) -> Iterator[SpeechBatch | None]:
    """Yield the batches of good rows, and None on all ranks where the batch of any rank has no good row.

    Bad rows of all ranks are added to the known ones; a new one is reported. Raises ValueError when none of the first
    GIVE_UP_AFTER rows, or of all rows if they are fewer, can be read.
    """
    found_rows: dict[int, BadRow] = {}
    all_are_bad = True
    for batch, local_bad_rows in loaded:
        all_ranks = gather_from_ranks((batch is not None, local_bad_rows), accelerator)
        bad_rows = {row.index: row for _, rows in all_ranks for row in rows}
        if accelerator.is_main_process:
            for row in bad_rows.values():
                if row.index not in known_rows:
                    log(f"row {row.index} of the data set is left out ({row.kind}): {row.reason}")
        known_rows.update(bad_rows)
        found_rows.update(bad_rows)
        all_are_bad &= not any(has_rows for has_rows, _ in all_ranks)
        if all_are_bad and len(found_rows) >= min(GIVE_UP_AFTER, num_rows):
            raise all_rows_bad(list(found_rows.values()))
        is_complete = all(has_rows for has_rows, _ in all_ranks)
        if not is_complete and accelerator.is_main_process:
            log("no row of a batch can be read: the batch is skipped")
        yield batch if is_complete else None


def gather_from_ranks(local: tuple[bool, list[BadRow]], accelerator: Accelerator) -> list[tuple[bool, list[BadRow]]]:
    """Gather the batch states and bad rows of all ranks."""
    return gather_object([local]) if accelerator.num_processes > 1 else [local]


def all_rows_bad(rows: Sequence[BadRow]) -> ValueError:
    """Build the error for a data set of which no row can be used; it names the first bad row."""
    first = min(rows, key=lambda row: row.index)
    return ValueError(
        f"none of the {len(rows)} rows tried can be used; row {first.index} is {first.kind}: {first.reason} (python -m "
        "f5_tts.scripts.check_dataset and the data set's folder shows all)"
    )
