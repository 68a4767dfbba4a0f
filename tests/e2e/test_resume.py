"""A stopped and resumed run makes the same updates, bit for bit, as an uninterrupted run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.e2e.runs import (
    BRIGHT,
    MOODY,
    STAGE_1,
    STAGE_2,
    assert_equal,
    interrupted_copy,
    make_data_set,
    rows,
    warm_up,
    without_times,
)

from f5_tts.train import train, train_rl

SAMPLE = ["datasets.batch_size_type=sample", "datasets.batch_size_per_gpu=2"]  # 9 recordings: 5 batches per epoch
# frames of 6.3 s in all at 50 frames per second: 4 or 5 batches per epoch
FRAME = ["datasets.batch_size_type=frame", "datasets.batch_size_per_gpu=100"]
NO_EPOCH = ["optim.epochs=100", "optim.max_updates=6"]
RL = ["rl.prompt_frac_range=[0.2,0.3]", "rl.credit=sample", MOODY, "rl.shared_noise=true"]
KINDS = {
    "stage 1, samples, 2 workers, accumulation": (
        train,
        [*STAGE_1, *SAMPLE, "datasets.num_workers=2", "optim.grad_accumulation_steps=2", "model.arch.dropout=0.1"],
    ),
    "stage 1, frames": (train, [*STAGE_1, *FRAME]),
    "stage 2, samples, accumulation": (
        train_rl,
        [*STAGE_2, *SAMPLE, *RL, "optim.grad_accumulation_steps=2", "rl.algorithm=flow_grpo"],
    ),
    "stage 2, samples, gradients of a reward beside its scores": (
        train_rl,
        [*STAGE_2, *SAMPLE, *RL, BRIGHT, "rl.draft.weight=0.5", "rl.algorithm=flow_grpo"],
    ),
    "stage 2, frames, 2 workers, an old policy": (
        train_rl,
        [*STAGE_2, *FRAME, *RL[:-1], "datasets.num_workers=2", "rl.algorithm=nft", "rl.nft.old_decay=0.5"],
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny) -> tuple[Path, list[str]]:
    """Make nine recordings; return the working directory and the options that train on them."""
    folder = tmp_path_factory.mktemp("data")
    return folder, [*tiny, *make_data_set(folder, 9), *NO_EPOCH]


@pytest.fixture(scope="module")
def start(data, tmp_path_factory) -> Path:
    """Train the checkpoint from which stage 2 starts."""
    return warm_up(train.main, [*SAMPLE, *data[1]], data[0], tmp_path_factory.mktemp("start"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_bit_for_bit_past_the_end_of_an_epoch(kind, data, start, tmp_path, monkeypatch):
    """Six updates in one run equal those of runs resumed after the second and the fourth update.

    Compared are weights, EMA, moments, schedule, all logged numbers, and the random numbers that a reward draws.
    """
    command, options = KINDS[kind]
    monkeypatch.chdir(data[0])
    whole = tmp_path / "whole"
    whole.mkdir()
    if command is train_rl:
        shutil.copy(start, whole)
    assert command.main([*options, *data[1], f"ckpts.save_dir={whole}"])
    assert rows(whole)[1]["epoch"] < 1 < rows(whole)[5]["epoch"]
    if command is train_rl:
        assert len({row["reward/mean"] for row in rows(whole)}) == 6 and rows(whole)[-1]["grad_norm"] > 0
    for update in (2, 4):
        copy = interrupted_copy(whole, tmp_path / f"from_{update}", update)
        assert command.main([*options, *data[1], f"ckpts.save_dir={copy}"])
        assert without_times(copy) == without_times(whole)
        assert_equal(copy / "model_last.pt", whole / "model_last.pt")


@pytest.mark.slow
def test_with_more_updates_per_rollout_than_before_a_killed_run_goes_on_bit_for_bit(data, start, tmp_path, monkeypatch):
    """Let update 4 have two updates of a rollout: with three, the next rollout serves updates 5 and 6 alone."""
    monkeypatch.chdir(data[0])
    options = [*KINDS["stage 2, samples, accumulation"][1], *data[1], "optim.learning_rate=1e-3"]
    first, whole = tmp_path / "first", tmp_path / "whole"
    first.mkdir()
    shutil.copy(start, first)
    saves = ["ckpts.save_per_updates=2", "ckpts.last_per_updates=2", "rl.updates_per_rollout=2", "optim.max_updates=4"]
    assert train_rl.main([*options, *saves, f"ckpts.save_dir={first}"])
    shutil.copytree(first, whole)
    more = ["ckpts.save_per_updates=3", "ckpts.last_per_updates=3", "rl.updates_per_rollout=3", "optim.max_updates=12"]
    assert train_rl.main([*options, *more, f"ckpts.save_dir={whole}"])
    drawn = [row["update"] for row in rows(whole) if "ratio/initial_max_dev" in row]
    assert drawn == [1, 3, 5, 7, 10]
    killed = interrupted_copy(whole, tmp_path / "killed", 6)
    assert train_rl.main([*options, *more, f"ckpts.save_dir={killed}"])
    assert without_times(killed) == without_times(whole)
    assert_equal(killed / "model_last.pt", whole / "model_last.pt")
