"""Rows that cannot be read: said once, counted, left out; and the end of a run that meets no others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from f5_tts.data.batching import Loaded
from f5_tts.types import BadRow, SpeechBatch

ENOUGH = 64  # rows in all, not one of which can be read, say that no other can


def without_bad_rows(
    loaded: Iterable[Loaded],
    known: set[int],
    num_rows: int,
    accelerator: Accelerator,
    say: Callable[[str], None] = tqdm.write,  # above a progress bar, where there is one
) -> Iterator[SpeechBatch | None]:
    """The batches of good rows; None where the batch of some process has none, on all processes alike.

    Bad rows, on whichever process, are added to `known`, and new ones said. Raises ValueError when neither of the first
    ENOUGH rows nor of all `num_rows` is good.
    """
    found: dict[int, BadRow] = {}
    all_are_bad = True
    for batch, bad in loaded:
        everywhere = together((batch is not None, bad), accelerator)
        bad_rows = {row.index: row for _, rows in everywhere for row in rows}
        if accelerator.is_main_process:
            for row in bad_rows.values():
                if row.index not in known:
                    say(f"row {row.index} of the data set is left out ({row.kind}): {row.reason}")
        known.update(bad_rows)
        found.update(bad_rows)
        all_are_bad &= not any(has_rows for has_rows, _ in everywhere)
        if all_are_bad and len(found) >= min(ENOUGH, num_rows):
            raise all_bad(list(found.values()))
        is_whole = all(has_rows for has_rows, _ in everywhere)
        if not is_whole and accelerator.is_main_process:
            say("no row of a batch can be read: it is passed over")
        yield batch if is_whole else None


def together(own: tuple[bool, list[BadRow]], accelerator: Accelerator) -> list[tuple[bool, list[BadRow]]]:
    """Of every process."""
    return gather_object([own]) if accelerator.num_processes > 1 else [own]


def all_bad(rows: Sequence[BadRow]) -> ValueError:
    first = min(rows, key=lambda row: row.index)
    return ValueError(
        f"none of the {len(rows)} rows tried can be learnt from; row {first.index} is {first.kind}: {first.reason} "
        "(python -m f5_tts.scripts.check_dataset and the data set's folder shows all)"
    )
