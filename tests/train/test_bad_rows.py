from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from f5_tts.data.batching import LoadedBatch
from f5_tts.train.bad_rows import OutageWatch, usable_batches
from f5_tts.train.train_state import DataPosition
from f5_tts.types import BadRow, SpeechBatch


def bad(*indices: int) -> list[BadRow]:
    return [BadRow(index=i, path=f"{i}.wav", kind="missing", reason=f"no audio file at {i}.wav") for i in indices]


def batch_of(*ids: int) -> SpeechBatch:
    num = len(ids)
    return SpeechBatch(
        mel=torch.zeros(num, 1, 1),
        lens=torch.ones(num, dtype=torch.long),
        prompt_lens=torch.zeros(num, dtype=torch.long),
        text=torch.zeros(num, 1, dtype=torch.long),
        target_texts=[""] * num,
        group_ids=torch.tensor(ids),
        audio=[torch.zeros(1)] * num,
    )


class Reading:
    """Batches that a reader yields of loaded ones, with what it reports; it may end by an outage."""

    def __init__(self, num_rows: int = 10, max_empty: int = 3, start: DataPosition | None = None) -> None:
        self.watch, self.start = OutageWatch(num_rows, max_empty), start or DataPosition()
        self.messages: list[str] = []
        self.yielded: list[tuple[list[int], DataPosition]] = []

    def read(self, *loaded: LoadedBatch) -> list[list[int]]:
        """Read on; return the group ids of each batch so far."""
        for batch, position in usable_batches(
            loaded, self.start, self.watch, Accelerator(cpu=True), self.messages.append
        ):
            self.yielded.append((batch.group_ids.tolist(), position))
        return [ids for ids, _ in self.yielded]


def position(batches: int, *bad_rows: int) -> DataPosition:
    return DataPosition(batches=batches, bad_rows=frozenset(bad_rows))


def test_bad_rows_are_counted_and_each_is_said_once():
    reading = Reading()
    loaded = [LoadedBatch(batch_of(1), bad(3, 4)), LoadedBatch(batch_of(2), []), LoadedBatch(batch_of(5), bad(4))]
    assert reading.read(*loaded) == [[1], [2], [5]]
    assert [place for _, place in reading.yielded] == [position(1, 3, 4), position(2, 3, 4), position(3, 3, 4)]
    assert reading.messages == [
        f"row {i} of the data set is left out (missing): no audio file at {i}.wav" for i in (3, 4)
    ]
    resumed = Reading(start=position(3, 3, 4))
    resumed.read(LoadedBatch(batch_of(1), bad(3)))
    assert resumed.messages == [] and resumed.yielded[-1][1] == position(4, 3, 4)


def test_a_batch_without_a_row_is_passed_over_and_the_position_moves_on():
    reading = Reading()
    assert reading.read(LoadedBatch(batch_of(1), []), LoadedBatch(None, bad(2)), LoadedBatch(batch_of(3), [])) == [
        [1],
        [3],
    ]
    assert [place for _, place in reading.yielded] == [position(1), position(3, 2)]
    assert reading.messages[-1] == "no row of a batch can be read: the batch is passed over"


def test_too_many_empty_batches_in_a_row_are_an_outage_and_the_position_is_from_before_the_first():
    reading = Reading(num_rows=1000)
    outage = [LoadedBatch(None, bad(i)) for i in (7, 5, 6)]
    with pytest.raises(
        ValueError, match=r"none of the 3 rows tried .*row 5 is missing: no audio file at 5\.wav.*check-dataset"
    ) as e:
        reading.read(LoadedBatch(batch_of(1), bad(9)), *outage[:2], LoadedBatch(batch_of(2), []), *outage)
    assert "3 batches in a row have nothing to read" in str(e.value)
    assert "higher datasets.max_empty_batches=3" in str(e.value)
    assert reading.yielded[-1] == ([2], position(4, 9, 7, 5))


def test_where_every_row_of_a_small_set_is_bad_the_run_ends_with_the_first_reason():
    few = [LoadedBatch(None, bad(2, 1)), LoadedBatch(None, bad(3))]
    with pytest.raises(ValueError, match=r"none of the 3 rows .*row 1 is missing: no audio file at 1\.wav"):
        Reading(num_rows=3).read(*few)
    Reading(num_rows=3).read(few[0], LoadedBatch(batch_of(0), bad(3)), few[1])


def test_an_outage_of_one_rank_is_one_and_other_batches_of_it_reset_the_count():
    """Let two ranks take turns without rows: no batch is complete, but neither rank is cut off."""
    good, empty = (True, []), (False, bad(1))
    watch = OutageWatch(num_rows=10, max_empty=3)
    for states in [(good, empty), (empty, good)] * 3:
        watch(states)
    watch((empty, good))
    with pytest.raises(ValueError, match="3 batches in a row"):
        watch((empty, good))


PROGRAM = """
from accelerate import Accelerator
from tests.train.test_bad_rows import bad, batch_of
from f5_tts.data.batching import LoadedBatch
from f5_tts.train.bad_rows import OutageWatch, usable_batches
from f5_tts.train.train_state import DataPosition
import torch

accelerator, messages = Accelerator(cpu=True), []
rank = accelerator.process_index
assert accelerator.num_processes == 2
local = [
    [LoadedBatch(batch_of(0), bad(7)), LoadedBatch(None, bad(8)), *[LoadedBatch(batch_of(4), [])] * 9],
    [LoadedBatch(batch_of(1), []), LoadedBatch(batch_of(3), bad(9)), LoadedBatch(batch_of(5), [])],
][rank]
local += [LoadedBatch(None, bad(i)) for i in range(8)] if rank == 1 else []  # the drive of this process is gone
text = f"{rank}"
try:
    for batch, position in usable_batches(local, DataPosition(), OutageWatch(20, 4), accelerator, messages.append):
        text += f" {batch.group_ids.tolist()} {position.batches} {sorted(position.bad_rows)}"
except ValueError as error:
    text += f" {str(error)[:30]} {len(messages)}\\n"
print(text, end="", flush=True)  # in one piece, whatever the other process prints
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_pass_over_the_same_batches_and_end_together_in_an_outage_of_one(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    root = str(Path(__file__).parents[2])
    paths = {"PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(tmp_path / "program.py")], env=os.environ | paths, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "0 [0] 2 [7] [4] 6 [7, 8, 9] none of the 4 rows tried can b 11",
        "1 [1] 2 [7] [5] 6 [7, 8, 9] none of the 4 rows tried can b 0",
    ]
