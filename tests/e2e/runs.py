"""Commands of small runs, and what their folders hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset as Table
from torch import Tensor

from f5_tts.types import RewardInput

REPOSITORY = Path(__file__).parents[2]
STAGE_1 = ["-cn", "F5TTS_Mini", "model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
SMALL_BATCHES = "datasets.batch_size_per_gpu=500"
STAGE_2 = ["-cn", "F5TTS_Mini_RL", "datasets.batch_size_per_gpu=2", "rl.mini_repeat_count=2", "rl.steps=4"]


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


OF_THE_CLOCK = ("time/", "mem/", "throughput/", "eval/rtf")


def without_times(folder: Path) -> list[dict[str, float]]:
    return [
        {
            name: value
            for name, value in row.items()
            if not name.startswith(("time/", "mem/", "throughput/", "eval/rtf"))
        }
        for row in rows(folder)
    ]


def tensors(state: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a nested state."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {name: leaf for key, value in items for name, leaf in tensors(value, f"{path}/{key}").items()}
    return {path: state}


def assert_equal(found: Path, expected: Path, but_for: str | None = None) -> None:
    """Two checkpoints are equal bit for bit, but for one entry that `expected` need not have."""
    one, other = tensors({key: part for key, part in read(found).items() if key != but_for}), tensors(read(expected))
    assert one.keys() == other.keys()
    differing = [name for name, leaf in other.items() if not equal(one[name], leaf)]
    assert differing == []


def equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(other, Tensor) else one == other


def interrupted_copy(folder: Path, copy: Path, update: int = 2) -> Path:
    """What a run leaves that is interrupted after this update: later rows of metrics are not yet true."""
    copy.mkdir()
    shutil.copy(folder / f"model_{update}.pt", copy / "model_last.pt")
    for name in ("metrics.jsonl", "reference.pt"):
        if (folder / name).exists():
            shutil.copy(folder / name, copy)
    return copy


class Moody:
    """A reward of yours: loud clips, and what NumPy's dice say on top."""

    component = "level"

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [float(item.audio.square().mean()) + 0.01 * np.random.rand() for item in inputs]


class Taste(Moody):
    """A judge of yours, for eval.providers; its component has the name of what users would measure."""

    component = "utmos"

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [float(len(item.audio)) / item.sample_rate for item in inputs]


MOODY = "rl.rewards.providers=[{name: 'tests.e2e.runs:Moody'}]"


def warm_up(stage_1: Callable[[list[str]], bool], options: list[str], where: Path, folder: Path) -> Path:
    """What two updates of stage 1 leave for stage 2 to start from, made by a user who stands in `where`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        assert stage_1([*STAGE_1, *options, "optim.max_updates=2", f"ckpts.save_dir={folder}"])
    return folder / "model_last.pt"


def until_an_update(run: subprocess.Popen[str]) -> str:
    """What a run of 2000 updates writes to standard error until its bar has counted one."""
    assert run.stderr is not None
    output = ""
    while not re.search(r" [1-9]\d*/\d+ ", output):
        piece = os.read(run.stderr.fileno(), 4096).decode()
        output += piece
        assert piece, output
    return output


def make_data_set(folder: Path, num: int, rate: int = 16_000) -> list[str]:
    """Recordings of noise from 0.3 s on, each 0.1 s longer than the one before; the overrides that choose them."""
    place = folder / "data" / "noise_custom"
    place.mkdir(parents=True)
    draw, seconds = np.random.default_rng(0), [0.3 + 0.1 * number for number in range(num)]
    paths = [str(place / f"{number}.wav") for number in range(num)]
    for path, length in zip(paths, seconds, strict=True):
        soundfile.write(path, draw.normal(scale=0.1, size=round(length * rate)), rate)
    Table.from_dict({"audio_path": paths, "text": ["one two"] * num}).save_to_disk(str(place / "raw"))
    (place / "duration.json").write_text(json.dumps({"duration": seconds}))
    shutil.copy(REPOSITORY / "data" / "mini_custom" / "vocab.txt", place)
    return ["datasets.name=noise", "datasets.pair_speakers=false"]
