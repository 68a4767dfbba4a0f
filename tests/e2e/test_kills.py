"""Runs that are killed with SIGKILL at random moments and resumed, in real processes."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tests.e2e.runs import MOODY, STAGE_1, STAGE_2, assert_equal, make_data_set, rows, warm_up, without_times

from f5_tts.model.checkpoint import TEMP_GLOB, numbered_checkpoints, read_checkpoint
from f5_tts.train import train, train_rl

SAMPLE = ["datasets.batch_size_type=sample", "datasets.batch_size_per_gpu=2"]
OFTEN = ["ckpts.save_per_updates=2", "ckpts.last_per_updates=1", "ckpts.keep_last_n_checkpoints=2"]
ALONE = ["rl.prompt_frac_range=[0.2,0.3]", "rl.credit=sample"]  # no prompts from other rows, and no scores per word
STAGES = {
    "stage 1": (train.main, [*STAGE_1, "model.arch.dropout=0.1"]),
    "stage 2": (
        train_rl.main,
        [
            *STAGE_2,
            MOODY,
            "rl.prompt_frac_range=[0.2,0.3]",
            "rl.algorithm=gaussian_grpo",
            "rl.shared_noise=true",
            "rl.credit=sample",
        ],
    ),
}


def fork(run: Callable[[list[str]], bool], options: list[str]) -> BaseProcess:
    """Start a process from a fork server that has imported the libraries."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["f5_tts.train.train_rl", "torch._dynamo"])  # the first optimizer imports the latter
    process = context.Process(target=run, args=(options,))
    process.start()
    return process


def updates_logged(folder: Path) -> int:
    log = folder / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def parts(folder: Path) -> list[Path]:
    return list(folder.glob(TEMP_GLOB))


def kill_somewhere(process: BaseProcess, folder: Path, dice: random.Random, in_a_save: bool) -> bool:
    """Kill the process after a few updates; return whether it was alive.

    The kill follows after a random wait or, with `in_a_save`, as soon as a file is being written.
    """
    first, expected = updates_logged(folder), dice.randrange(1, 4)
    while process.is_alive() and updates_logged(folder) < first + expected:
        time.sleep(0.002)
    for _ in range(dice.randrange(2000)):
        updates_logged(folder)
    while in_a_save and process.is_alive() and not parts(folder):
        time.sleep(0.0005)
    lived = process.is_alive()
    process.kill()
    process.join()
    return lived


def check_what_is_left(folder: Path, at_least: int) -> int:
    """Assert that all checkpoints load and none was lost; return the update from which a run resumes."""
    numbered = numbered_checkpoints(folder)
    updates = [read_checkpoint(path).update for path in numbered]
    assert [f"model_{update}.pt" for update in updates] == [path.name for path in numbered]
    last = read_checkpoint(folder / "model_last.pt").update
    assert at_least <= last and len(numbered) <= 3  # one more until the oldest is deleted
    assert len(parts(folder)) <= 1
    return last


def survive(stage: str, kills: int, total: int, data: tuple[Path, list[str]], start: Path, folder: Path) -> int:
    """Kill and resume a run several times, let it end, and compare it with an uninterrupted run.

    Returns how many kills happened during a save.
    """
    command, options = STAGES[stage]
    options = [*options, *data[1], *SAMPLE, *OFTEN, f"optim.max_updates={total}"]
    killed, whole = folder / "killed", folder / "whole"
    for place in (killed, whole):
        place.mkdir()
        if stage == "stage 2":
            shutil.copy(start, place)
    dice, update, in_saves = random.Random(stage), 0, 0
    for kill in range(kills):
        process = fork(command, [*options, f"ckpts.save_dir={killed}"])
        assert kill_somewhere(process, killed, dice, in_a_save=kill % 2 == 1), f"ended with {process.exitcode}"
        in_saves += bool(parts(killed))
        update = check_what_is_left(killed, update)
    for place in (killed, whole):
        process = fork(command, [*options, f"ckpts.save_dir={place}"])
        process.join()
        assert process.exitcode == 0
    assert [row["update"] for row in rows(killed)] == list(range(1, total + 1))
    assert without_times(killed) == without_times(whole)
    assert_equal(killed / "model_last.pt", whole / "model_last.pt")
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
    return in_saves


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny) -> tuple[Path, list[str]]:
    """Make nine recordings; return the working directory and the options that train on them."""
    folder = tmp_path_factory.mktemp("data")
    return folder, [*tiny, *make_data_set(folder, 9), "optim.epochs=100"]


@pytest.fixture(scope="module")
def start(data, tmp_path_factory) -> Path:
    """Train the checkpoint from which stage 2 starts."""
    return warm_up(train.main, [*SAMPLE, *data[1]], data[0], tmp_path_factory.mktemp("start"))


@pytest.mark.slow
@pytest.mark.parametrize("stage, kills, total", [("stage 1", 3, 20), ("stage 2", 2, 12)])  # thirty: soak
def test_killed_runs_lose_nothing_and_make_the_updates_of_one_that_was_not(
    stage, kills, total, data, start, tmp_path, monkeypatch
):
    monkeypatch.chdir(data[0])
    assert survive(stage, kills, total, data, start, tmp_path) >= 1


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", STAGES)
def test_thirty_kills(stage, data, start, tmp_path, monkeypatch):
    monkeypatch.chdir(data[0])
    in_saves = survive(stage, 30, 200, data, start, tmp_path)
    print(f"{stage}: 30 kills survived, {in_saves} of them while a file was being written")
    assert in_saves >= 5
