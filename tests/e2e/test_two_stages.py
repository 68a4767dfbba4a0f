"""Both stages from their entry points, on a tiny model with random weights and the shipped speech."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from f5_tts.train import train, train_rl

STAGE_1 = ["-cn", "F5TTS_Mini", "model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
SMALL_BATCHES = "datasets.batch_size_per_gpu=500"
STAGE_2 = ["-cn", "F5TTS_Mini_RL", "datasets.batch_size_per_gpu=2", "rl.mini_repeat_count=2", "rl.steps=4"]
ALGORITHMS = {
    "nft": ["rl.algorithm=nft", "rl.credit=word"],
    "gaussian_grpo": ["rl.algorithm=gaussian_grpo", "rl.shared_noise=true", "rl.credit=word"],
    "flow_grpo": [
        "rl.algorithm=flow_grpo",
        "rl.shared_noise=true",
        "rl.credit=sample",
        "rl.window.schedule=random",
        "rl.window.size=1",
        "datasets.pair_speakers=false",
        "rl.prompt_frac_range=[0.1,0.3]",
    ],
    "f5r": ["rl.algorithm=f5r", "rl.steps=3", "rl.cfg_strength=1.0", "rl.advantage=grpo", "rl.train_sigma=true"],
}
STATE = {
    "model_state_dict",
    "ema_model_state_dict",
    "optimizer_state_dict",
    "scheduler_state_dict",
    "objective",
    "update",
    "recommended",
    "model",
    "vocabulary",
}


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(folder: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows(folder)]


def tensors(state: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a nested state."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {name: leaf for key, value in items for name, leaf in tensors(value, f"{path}/{key}").items()}
    return {path: state}


def assert_equal(found: Path, expected: Path) -> None:
    """Two checkpoints are equal bit for bit."""
    one, other = tensors(read(found)), tensors(read(expected))
    assert one.keys() == other.keys()
    differing = [name for name, leaf in other.items() if not equal(one[name], leaf)]
    assert differing == []


def equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(other, Tensor) else one == other


def interrupted_copy(folder: Path, copy: Path) -> Path:
    """What a run leaves that is interrupted after its second update: later rows of metrics are not yet true."""
    copy.mkdir()
    shutil.copy(folder / "model_2.pt", copy / "model_last.pt")
    for name in ("metrics.jsonl", "reference.pt"):
        if (folder / name).exists():
            shutil.copy(folder / name, copy)
    return copy


@pytest.fixture(scope="module")
def stage_1(tmp_path_factory, tiny, at_home) -> Path:
    folder = tmp_path_factory.mktemp("stage_1")
    assert train.main([*STAGE_1, SMALL_BATCHES, *tiny, f"ckpts.save_dir={folder}"])
    return folder


@pytest.fixture(scope="module", params=list(ALGORITHMS))
def stage_2(request, tmp_path_factory, stage_1, tiny) -> tuple[Path, Callable[[Path], bool]]:
    """The folder of a run of stage 2, and the command that makes one in another folder."""
    options = [*STAGE_2, *tiny, *ALGORITHMS[request.param]]

    def run(folder: Path) -> bool:
        return train_rl.main([*options, f"ckpts.save_dir={folder}"])

    folder = tmp_path_factory.mktemp(request.param)
    shutil.copy(stage_1 / "model_last.pt", folder)
    assert run(folder)
    return folder, run


def test_stage_1_writes_what_a_run_needs(stage_1):
    assert sorted(path.name for path in stage_1.iterdir()) == [
        "metrics.jsonl",
        "model_2.pt",
        "model_4.pt",
        "model_last.pt",
    ]
    state = read(stage_1 / "model_last.pt")
    assert state.keys() == STATE
    assert state["update"] == 4 and state["objective"] == "gaussian_nll"
    assert_equal(stage_1 / "model_4.pt", stage_1 / "model_last.pt")
    assert [row["update"] for row in rows(stage_1)] == [1, 2, 3, 4]
    assert all({"loss", "loss/nll", "loss/mse", "grad_norm", "lr"} <= row.keys() for row in rows(stage_1))


def test_stage_1_goes_on_bit_for_bit(stage_1, tiny, tmp_path):
    copy = interrupted_copy(stage_1, tmp_path / "resumed")
    assert train.main([*STAGE_1, SMALL_BATCHES, *tiny, f"ckpts.save_dir={copy}"])
    assert without_times(copy) == without_times(stage_1)
    assert_equal(copy / "model_last.pt", stage_1 / "model_last.pt")


def test_stage_2_reports_losses_and_every_reward(stage_2):
    folder, _ = stage_2
    contract = {"loss", "loss/kl", "loss/pro_adv", "reward/mean", "reward/std", "reward/min", "reward/max"}
    contract |= {"reward/digits_wer.acc", "reward/voice_sim.sim", "frac_reward_zero_std"}
    assert [row["update"] for row in rows(folder)] == [1, 2, 3, 4]
    for row in rows(folder):
        assert contract <= row.keys()
        assert row["reward/min"] <= row["reward/mean"] <= row["reward/max"]
        assert 0 <= row["reward/digits_wer.acc"] <= 1 and -1 <= row["reward/voice_sim.sim"] <= 1
        assert ("ratio/max_dev" in row) == ("grpo" in folder.name)  # nft and f5r have no ratio
        assert row.get("ratio/max_dev", 0.0) == 0


def test_stage_2_starts_at_its_reference_and_leaves_it(stage_2, stage_1):
    folder, _ = stage_2
    first, *_, last = (row["loss/kl"] for row in rows(folder))
    assert last > 0 and (first == 0 or "f5r" in folder.name)  # f5r compares two rollouts, so its KL starts above 0
    before, after = read(stage_1 / "model_last.pt"), read(folder / "model_last.pt")
    assert after.keys() == STATE | {"origin"} and after["update"] == 4 and after["objective"] == "grpo"
    reference = read(folder / "reference.pt")["model_state_dict"]
    assert all(torch.equal(value, before["model_state_dict"][name]) for name, value in reference.items())
    assert any(not torch.equal(value, reference[name]) for name, value in after["model_state_dict"].items())


def test_stage_2_goes_on_bit_for_bit_and_against_the_same_reference(stage_2, tmp_path):
    folder, run = stage_2
    copy = interrupted_copy(folder, tmp_path / "resumed")
    assert run(copy)
    assert without_times(copy) == without_times(folder)
    assert_equal(copy / "model_last.pt", folder / "model_last.pt")


def test_a_finished_run_has_nothing_left_to_do(stage_1, tiny, capsys):
    before = (stage_1 / "model_last.pt").read_bytes()
    assert train.main([*STAGE_1, SMALL_BATCHES, *tiny, f"ckpts.save_dir={stage_1}"])
    assert "nothing left to do" in capsys.readouterr().out
    assert (stage_1 / "model_last.pt").read_bytes() == before
    assert len(rows(stage_1)) == 4


@pytest.mark.slow
def test_ctrl_c_ends_a_run_after_its_update_with_all_of_it_saved(tiny, at_home, tmp_path):
    argv = [*STAGE_1, SMALL_BATCHES, *tiny, "optim.max_updates=2000", f"ckpts.save_dir={tmp_path}"]
    with subprocess.Popen([sys.executable, "-m", "f5_tts.train.train", *argv], stderr=subprocess.PIPE) as run:
        assert run.stderr is not None
        said = b""
        while not re.search(rb" [1-9]\d*/2000", said):  # the bar has counted an update
            said += os.read(run.stderr.fileno(), 4096)
            assert run.poll() is None, said.decode()
        run.send_signal(signal.SIGINT)
        said = run.stderr.read()
    assert run.returncode == 130
    assert said.decode().endswith("stopped, and saved: the same command goes on from here\n")
    assert read(tmp_path / "model_last.pt")["update"] == rows(tmp_path)[-1]["update"] < 2000
