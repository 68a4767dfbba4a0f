from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.test_train_state import after, assert_equal, folder, names, start_of, train_state

from f5_tts.model.checkpoint import read_checkpoint
from f5_tts.train.train_state import TrainState


def saved(path: Path, run: TrainState) -> TrainState:
    torch.save(run.payload(), path)
    return run


def run_with(settings: dict[str, Any], updates: int) -> TrainState:
    run = train_state("grpo")
    run.settings = settings
    return after(run, updates)


def test_a_numbered_file_of_another_stage_never_costs_a_run_its_own(tmp_path, capsys):
    """Let a run of stage 2 start from model_800.pt and be killed at update 13."""
    first = saved(tmp_path / "model_800.pt", train_state("gaussian_nll", seed=3))
    checkpoints = folder(tmp_path, save_per_updates=2, last_per_updates=1000, keep_last_n_checkpoints=1)
    run = start_of(checkpoints, "grpo")
    checkpoints.set_aside_others(run)
    assert_equal(
        start_of(folder(tmp_path), "grpo").model.state_dict(), first.model.state_dict()
    )  # killed before a save
    for _ in range(13):
        checkpoints.save_if_due(after(run, 1))
    assert names(tmp_path) == ["model_12.pt", "model_last.pt", "set_aside"]
    assert names(tmp_path / "set_aside") == ["model_800.pt"]
    assert f"model_800.pt of {tmp_path}: not of this run at update 0" in capsys.readouterr().out
    assert start_of(folder(tmp_path), "grpo").update == 12


def test_a_killed_run_loses_no_numbered_file_to_the_model_last_of_another_stage(tmp_path):
    saved(tmp_path / "model_last.pt", train_state("gaussian_nll"))
    checkpoints = folder(tmp_path, save_per_updates=2, last_per_updates=1000)
    run = start_of(checkpoints, "grpo")
    for _ in range(5):
        checkpoints.save_if_due(after(run, 1))
    assert start_of(folder(tmp_path), "grpo").update == 4


def test_an_abandoned_branch_is_set_aside_where_a_run_goes_on_before_it(tmp_path, capsys):
    """Let a run go on from update 8 at another rate; there are files of updates 12 and 14, one of them damaged."""
    run = saved(tmp_path / "model_last.pt", run_with({"optim.learning_rate": 1.0}, 8))
    saved(tmp_path / "model_12.pt", after(run, 4))
    (tmp_path / "model_14.pt").write_bytes(b"half a file")
    checkpoints = folder(tmp_path, save_per_updates=2, keep_last_n_checkpoints=1)
    resumed = start_of(checkpoints, "grpo")
    resumed.settings = {"optim.learning_rate": 0.1}
    checkpoints.set_aside_others(resumed)
    output = (
        f"model_12.pt, model_14.pt of {tmp_path}: not of this run at update 8, which goes on without them; moved to "
    )
    assert output in capsys.readouterr().out
    for _ in range(2):
        checkpoints.save_if_due(after(resumed, 1))
    assert names(tmp_path) == ["model_10.pt", "model_last.pt", "set_aside"]
    saved(tmp_path / "model_12.pt", run)
    checkpoints.set_aside_others(resumed)
    assert names(tmp_path / "set_aside") == ["model_12.pt", "model_12_2.pt", "model_14.pt"]


@pytest.mark.parametrize("settings", [{}, {"optim.seed": 1}])
def test_files_that_a_killed_run_makes_again_stay(tmp_path, settings: dict[str, int], capsys):
    run = saved(tmp_path / "model_last.pt", run_with(settings, 8))
    saved(tmp_path / "model_10.pt", after(run, 2))
    checkpoints = folder(tmp_path, save_per_updates=2, keep_last_n_checkpoints=1)
    resumed = start_of(checkpoints, "grpo")
    resumed.settings = settings
    capsys.readouterr()
    checkpoints.set_aside_others(resumed)
    assert capsys.readouterr().out == "" and names(tmp_path) == ["model_10.pt", "model_last.pt"]
    for _ in range(2):
        checkpoints.save_if_due(after(resumed, 1))
    assert names(tmp_path) == ["model_10.pt", "model_last.pt"]
    assert read_checkpoint(tmp_path / "model_10.pt").payload["numbered"] == [10]


def test_the_best_of_an_abandoned_branch_and_of_an_earlier_run_is_set_aside_and_an_own_one_stays(tmp_path):
    run = saved(tmp_path / "model_last.pt", run_with({"optim.seed": 1}, 2))
    for update, left in ((2, ["model_best.pt", "model_last.pt"]), (3, ["model_last.pt", "set_aside"])):
        saved(tmp_path / "model_best.pt", after(run, update - run.update))
        resumed = start_of(folder(tmp_path), "grpo")
        folder(tmp_path).set_aside_others(resumed)
        assert names(tmp_path) == left
    saved(tmp_path / "model_best.pt", run)
    folder(tmp_path).set_aside_others(train_state("grpo"))
    assert names(tmp_path / "set_aside") == ["model_best.pt", "model_best_2.pt"]
