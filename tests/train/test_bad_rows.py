from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from f5_tts.data.batching import LoadedBatch
from f5_tts.train.bad_rows import skip_bad_rows
from f5_tts.train.build import group_batches
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


def ids_of(batch: SpeechBatch | None) -> list[int] | None:
    return batch if batch is None else batch.group_ids.tolist()


def passed(loaded: list[LoadedBatch], known: set[int], said: list[str], num_rows: int = 10) -> list[list[int] | None]:
    batches = skip_bad_rows(loaded, known, num_rows, Accelerator(cpu=True), said.append)
    return [ids_of(batch) for batch in batches]


def test_bad_rows_are_counted_and_each_is_said_once():
    known, output = set[int](), []
    loaded = [LoadedBatch(batch_of(1), bad(3, 4)), LoadedBatch(batch_of(2), []), LoadedBatch(batch_of(5), bad(4))]
    assert passed(loaded, known, output) == [[1], [2], [5]]
    assert known == {3, 4}
    assert output == [f"row {i} of the data set is left out (missing): no audio file at {i}.wav" for i in (3, 4)]
    passed([LoadedBatch(batch_of(1), bad(3))], known, output)  # a resumed run knows them
    assert len(output) == 2


def test_a_batch_without_a_row_keeps_its_place_in_the_updates():
    messages: list[str] = []
    loaded = [
        LoadedBatch(batch_of(1), []),
        LoadedBatch(None, bad(2)),
        LoadedBatch(batch_of(3), []),
        LoadedBatch(batch_of(4), []),
    ]
    batches = skip_bad_rows(loaded, set(), 10, Accelerator(cpu=True), messages.append)
    assert [[ids_of(batch) for batch in update] for update in group_batches(2, batches)] == [[[1]], [[3], [4]]]
    assert messages[-1] == "no row of a batch can be read: the batch is skipped"


def test_where_every_row_is_bad_the_run_ends_with_the_first_reason():
    known, output = set[int](), []
    with pytest.raises(ValueError, match=r"none of the 3 rows .*row 1 is missing: no audio file at 1\.wav.*check_"):
        passed([LoadedBatch(None, bad(2, 1)), LoadedBatch(None, bad(3))], known, output, num_rows=3)
    passed([LoadedBatch(None, bad(2, 1)), LoadedBatch(batch_of(0), bad(3))], known, output, num_rows=3)
    with pytest.raises(ValueError, match="none of the 64 rows tried"):
        passed([LoadedBatch(None, bad(i)) for i in range(100)], known, output, num_rows=1000)


PROGRAM = """
from accelerate import Accelerator
from tests.train.test_bad_rows import bad, batch_of, ids_of
from f5_tts.data.batching import LoadedBatch
from f5_tts.train.bad_rows import skip_bad_rows
import torch

accelerator, known, messages = Accelerator(cpu=True), set(), []
assert accelerator.num_processes == 2
local = [
    [LoadedBatch(batch_of(0), bad(7)), LoadedBatch(None, bad(8)), LoadedBatch(batch_of(4), [])],
    [LoadedBatch(batch_of(1), []), LoadedBatch(batch_of(3), bad(9)), LoadedBatch(batch_of(5), [])],
][accelerator.process_index]
found = [ids_of(batch) for batch in skip_bad_rows(local, known, 20, accelerator, messages.append)]
text = f"{accelerator.process_index} {found} {sorted(known)} {len(messages)}\\n"
print(text, end="", flush=True)  # in one piece, whatever the other process prints
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_pass_over_the_same_batches_and_know_the_same_rows(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    root = str(Path(__file__).parents[2])
    paths = {"PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(tmp_path / "program.py")], env=os.environ | paths, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "0 [[0], None, [4]] [7, 8, 9] 4",
        "1 [[1], None, [5]] [7, 8, 9] 0",
    ]
