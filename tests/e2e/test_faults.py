"""Real faults beside a stage-2 run while it trains."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.e2e.runs import (
    STAGE_1,
    STAGE_2,
    assert_equal,
    make_data_set,
    read,
    rows,
    until_an_update,
    warm_up,
    without_times,
)

from f5_tts.train import train, train_rl
from f5_tts.types import RewardInput

SAMPLE = ["datasets.batch_size_type=sample", "datasets.batch_size_per_gpu=2"]
RL = ["rl.prompt_frac_range=[0.2,0.3]", "rl.credit=sample", "rl.algorithm=gaussian_grpo", "rl.shared_noise=true"]


class Level:
    """A reward for loud clips; subclasses cause a fault first."""

    component = "level"

    def __init__(self) -> None:
        self.calls = 0

    def score(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        self.calls += 1
        return [float(item.audio.square().mean()) for item in inputs]


class Deletes(Level):
    """Deletes a recording while the run trains on the data set."""

    def score(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        Path(os.environ["TAKE_AWAY"]).unlink(missing_ok=True)
        return super().score(inputs)


class Unmounts(Level):
    """Moves all recordings away at its fourth call, in its first run only, as a drive does that is unmounted."""

    def score(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        drive, elsewhere = Path(os.environ["DRIVE"]), Path(os.environ["ELSEWHERE"])
        if self.calls == 3 and not elsewhere.exists():
            elsewhere.mkdir()
            for path in drive.glob("*.wav"):
                path.rename(elsewhere / path.name)
        return super().score(inputs)


class Falls(Level):
    """Kills its own process at the second clip, in its first process only."""

    def score(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        scores, once = super().score(inputs), Path(os.environ["FELL"])
        if self.calls == 2 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return scores


class Absent(Level):
    """Applies to no clip of its first call and to every other clip of later calls."""

    def score(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        scores = super().score(inputs)
        return [None if self.calls == 1 or index % 2 else score for index, score in enumerate(scores)]


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny) -> tuple[Path, list[str]]:
    """Make six recordings; return the working directory and the options that train on them."""
    folder = tmp_path_factory.mktemp("data")
    return folder, [*tiny, *make_data_set(folder, 6), *SAMPLE, "optim.epochs=100"]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Return a function that runs stage 2 with a reward of this file, in a given folder."""
    start = warm_up(train.main, data[1], data[0], tmp_path_factory.mktemp("start"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data[0])

        def stage_2(reward: str, folder: Path, *more: str) -> Path:
            if not folder.exists():
                folder.mkdir()
                shutil.copy(start, folder)
            provider = f"rl.rewards.providers=[{{name: 'tests.e2e.test_faults:{reward}'}}]"
            assert train_rl.main([*STAGE_2, *data[1], *RL, provider, *more, f"ckpts.save_dir={folder}"])
            return folder

        yield stage_2


def test_a_recording_that_is_deleted_while_training_is_said_counted_and_left_out(
    run, data, tmp_path, capsys, monkeypatch
):
    (tmp_path / "kept").mkdir()
    wavs = sorted((data[0] / "data" / "noise_custom").glob("*.wav"))
    victim = wavs[3]
    shutil.copy(victim, tmp_path / "kept")
    monkeypatch.setenv("TAKE_AWAY", str(victim))
    folder = run("Deletes", tmp_path / "run", "optim.max_updates=8")
    shutil.copy(tmp_path / "kept" / victim.name, victim)
    assert capsys.readouterr().out.count("row 3 of the data set is left out (missing): no audio file at") == 1
    counts = [row["health/bad_rows"] for row in rows(folder)]
    assert counts[0] == 0 and counts[-1] == 1 and len(counts) == 8
    assert read(folder / "model_last.pt")["bad_rows"] == [3]


@pytest.mark.slow
def test_a_worker_that_is_killed_while_training_costs_no_score_and_changes_no_number(run, tmp_path, monkeypatch):
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    monkeypatch.setenv("PYTHONPATH", paths)
    monkeypatch.setenv("FELL", str(tmp_path / "fell"))
    worker = f"rl.rewards.providers.0.worker.python={sys.executable}"
    killed = run("Falls", tmp_path / "killed", worker)
    assert (tmp_path / "fell").exists()
    whole = run("Falls", tmp_path / "whole", worker)
    assert without_times(killed) == without_times(whole)
    assert_equal(killed / "model_last.pt", whole / "model_last.pt")


def test_samples_to_which_no_reward_applies_move_nothing(run, tmp_path):
    """At the first update no sample has a reward, so only the KL could give a gradient, and the KL is zero there.

    At later updates half of the samples have one.
    """
    folder = run(
        "Absent", tmp_path / "run", "rl.anchor_weight=0", "optim.num_warmup_updates=0", "rl.mini_repeat_count=4"
    )
    result = rows(folder)
    assert [row["reward/not_applicable"] for row in result] == [1.0, 0.5, 0.5, 0.5]
    assert result[0]["grad_norm"] == 0 and all(row["grad_norm"] > 0 for row in result[1:])
    assert all(row["health/nonfinite_skips"] == 0 for row in result)


OFTEN = ["optim.max_updates=12", "ckpts.save_per_updates=2", "ckpts.last_per_updates=1"]
OFTEN += ["ckpts.keep_last_n_checkpoints=2"]


def test_a_drive_that_goes_while_training_ends_the_run_and_the_same_command_goes_on_bit_for_bit(
    run, data, tmp_path, capsys, monkeypatch
):
    """Move six recordings away; three batches make an epoch."""
    drive, elsewhere = data[0] / "data" / "noise_custom", tmp_path / "elsewhere"
    monkeypatch.setenv("DRIVE", str(drive))
    monkeypatch.setenv("ELSEWHERE", str(elsewhere))
    options = [*OFTEN, "datasets.max_empty_batches=3", "datasets.num_workers=0"]
    with pytest.raises(ValueError, match=r"none of the 6 rows tried .*as in an outage"):
        run("Unmounts", tmp_path / "run", *options)
    for path in elsewhere.iterdir():
        path.rename(drive / path.name)
    assert capsys.readouterr().out.count("is left out (missing): no audio file at") == 6
    assert [row["update"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]
    last = read(tmp_path / "run" / "model_last.pt")
    assert (last["update"], last["batches"], "bad_rows" in last) == (4, 4, False)
    assert sorted(path.name for path in (tmp_path / "run").glob("model_?.pt")) == ["model_2.pt", "model_4.pt"]
    resumed = run("Unmounts", tmp_path / "run", *options)
    whole = run("Unmounts", tmp_path / "whole", *options)
    assert without_times(resumed) == without_times(whole)
    assert_equal(resumed / "model_last.pt", whole / "model_last.pt")


def test_a_drive_that_goes_ends_a_process_of_stage_1_with_exit_code_2(data, tmp_path):
    options = [*STAGE_1, *data[1], "optim.max_updates=2000", f"ckpts.save_dir={tmp_path}"]
    command = [sys.executable, "-m", "f5_tts.train.train", *options]
    drive = data[0] / "data" / "noise_custom"
    with subprocess.Popen(
        command, cwd=data[0], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        until_an_update(process)
        drive.rename(drive.with_name("gone"))
        _, errors = process.communicate(timeout=100)
    drive.with_name("gone").rename(drive)
    assert process.returncode == 2
    assert "error: none of the 6 rows tried can be used; row 0 is missing: no audio file at " in errors
    assert len(rows(tmp_path)) < 2000
