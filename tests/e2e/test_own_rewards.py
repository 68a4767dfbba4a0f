"""Users' own rewards in runs of stage 2: in the trainer's process, in a worker, and in a worker that is killed."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.e2e.runs import REPOSITORY

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.model.build import build_model
from f5_tts.train import train_rl

NAME = "reward/fragile_rewards:Fragile"
PLACE = ("time/", "mem/", "throughput/", f"{NAME}.pid")
SETTINGS = ["datasets.batch_size_per_gpu=2", "rl.mini_repeat_count=2", "rl.repeat_count=2", "rl.steps=4"]
SETTINGS += ["rl.algorithm=flow_grpo", "rl.shared_noise=true", "rl.credit=sample", "rl.rewards.overlap=true"]

REWARD = '''
"""Clips as long and as loud as the person's; the first clips may cost its process its life."""

import os
import signal
from pathlib import Path

import torch


class Fragile:
    component = "likeness"

    def __init__(self, grave=None):
        self.grave = grave and Path(grave)

    def score(self, inputs):
        if self.grave and not self.grave.exists():
            self.grave.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        off = torch.stack([(item.audio.std() - item.target_audio.std()).abs() for item in inputs])
        letters = torch.tensor([float(len(item.row["text"])) for item in inputs])
        return {"likeness": -off, "letters": letters, "pid": [float(os.getpid())] * len(inputs)}
'''


@pytest.fixture
def run(tiny: list[str], at_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that runs stage 2 with the reward above, always from the same random model."""
    (tmp_path / "fragile_rewards.py").write_text(REWARD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # as if the run was started there

    def go(name: str, entry: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        settings = [*tiny, *SETTINGS, f"rl.rewards.providers=[{{name: 'fragile_rewards:Fragile', {entry}}}]"]
        write_start(settings, folder / "model_last.pt")
        assert train_rl.main(["-cn", "F5TTS_Mini_RL", *settings, f"ckpts.save_dir={folder}"])
        return folder

    return go


def write_start(settings: list[str], path: Path) -> None:
    cfg = compose_config("F5TTS_Mini_RL", settings, RLTrainConfig)
    torch.manual_seed(0)
    weights = build_model(cfg.model, build_vocabulary(cfg)).state_dict()
    torch.save({"ema_model_state_dict": {f"ema_model.{name}": value for name, value in weights.items()}}, path)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics that do not depend on time or machine."""
    return [{key: value for key, value in row.items() if not key.startswith(PLACE)} for row in rows(folder)]


def pids(folder: Path) -> list[float]:
    return [row[f"{NAME}.pid"] for row in rows(folder)]


@pytest.mark.slow
def test_a_reward_trains_alike_in_this_process_in_another_and_in_one_that_is_killed(run, tmp_path):
    here = run("here", "floor: 0.01")
    worker = f"worker: {{python: '{sys.executable}'}}"
    beside = run("beside", f"floor: 0.01, {worker}")
    killed = run("killed", f"floor: 0.01, config: {{grave: '{tmp_path / 'grave'}'}}, {worker}")
    assert (tmp_path / "grave").exists()
    assert set(pids(here)) == {float(os.getpid())}
    assert len(set(pids(beside))) == 1 and float(os.getpid()) not in pids(beside)
    assert [row["update"] for row in rows(killed)] == [1, 2, 3, 4]
    assert numbers(here) == numbers(beside) == numbers(killed)
    assert numbers(here)[0][f"{NAME}.letters"] > 2 and numbers(here)[0]["reward/std"] > 0
    weights = [torch.load(folder / "model_last.pt", weights_only=True) for folder in (here, beside, killed)]
    for name, value in weights[0]["model_state_dict"].items():
        assert all(torch.equal(value, other["model_state_dict"][name]) for other in weights[1:])


# --- rewards with gradients, as docs/rewards.md prints them ---

PAGE = (REPOSITORY / "docs/rewards.md").read_text("utf-8")
SECTION = PAGE.partition("\n## Rewards with gradients\n")[2].partition("\n## ")[0]
(SOURCE,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


@pytest.mark.slow
def test_the_gradient_of_the_page_trains_for_two_updates(
    tiny: list[str], at_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "my_gradients.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    (command,) = re.findall(r"^\.venv/bin/f5-tts train-rl -cn F5TTS_Mini_RL ((?:.*\\\n)*.*)$", SECTION, re.M)
    settings = [*tiny, *shlex.split(command.replace("\\\n", " ")), "datasets.batch_size_per_gpu=2", "rl.steps=2"]
    write_start(settings, tmp_path / "model_last.pt")
    before = torch.load(tmp_path / "model_last.pt", weights_only=True)["ema_model_state_dict"]
    assert train_rl.main(["-cn", "F5TTS_Mini_RL", *settings, "optim.max_updates=2", f"ckpts.save_dir={tmp_path}"])
    made = rows(tmp_path)
    assert [row["update"] for row in made] == [1, 2]
    for row in made:
        smooth, voice = row["reward/my_gradients:Smooth.loss"], row["reward/voice_sim.loss"]
        assert smooth > 0 and 0 < voice < 1 and row["grad_norm"] > 0
        assert row["draft/loss"] == pytest.approx(voice + 0.1 * smooth, rel=1e-4)
    after = torch.load(tmp_path / "model_last.pt", weights_only=True)["model_state_dict"]
    assert any(not torch.equal(value, before[f"ema_model.{name}"]) for name, value in after.items())


def test_the_gradient_of_the_page_is_ten_lines():
    lines = [line for line in SOURCE.splitlines() if line.strip() and not line.startswith(("import", '"""'))]
    assert len(lines) <= 10
