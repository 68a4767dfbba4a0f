"""Commands of small runs, and assertions on the contents of their folders."""

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
    """Flatten a nested state: return its leaves by path."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {name: leaf for key, value in items for name, leaf in tensors(value, f"{path}/{key}").items()}
    return {path: state}


def assert_equal(found: Path, expected: Path, but_for: Sequence[str] = ()) -> None:
    """Assert that two checkpoints are equal bit for bit, except entries that `expected` need not have."""
    one, other = (
        tensors({key: part for key, part in read(found).items() if key not in but_for}),
        tensors(read(expected)),
    )
    assert one.keys() == other.keys()
    differing = [name for name, leaf in other.items() if not equal(one[name], leaf)]
    assert differing == []


def equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(other, Tensor) else one == other


def interrupted_copy(folder: Path, copy: Path, update: int = 2) -> Path:
    """Copy what a run interrupted after this update would leave.

    The metrics keep their later rows, which a resumed run must replace.
    """
    copy.mkdir()
    shutil.copy(folder / f"model_{update}.pt", copy / "model_last.pt")
    for name in ("metrics.jsonl", "reference.pt", "model_best.pt"):
        if (folder / name).exists():
            shutil.copy(folder / name, copy)
    return copy


class Moody:
    """A user's reward for loud clips, plus random numbers from NumPy's global generator."""

    component = "level"

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [float(item.audio.square().mean()) + 0.01 * np.random.rand() for item in inputs]


class Taste(Moody):
    """A user's judge for eval.providers, whose component is named as a metric of speech quality."""

    component = "utmos"

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [float(len(item.audio)) / item.sample_rate for item in inputs]


class Bright(Moody):
    """A user's reward with a gradient, for high bands, whose scale is a random number of NumPy's global generator."""

    takes = "mel"

    def loss(self, inputs: Sequence[RewardInput]) -> Tensor:
        mels = [item.mel[:, 50:] for item in inputs if item.mel is not None]
        return torch.stack([(1 + 0.1 * np.random.rand()) * (mel + 2).square().mean() for mel in mels])


BRIGHT = "rl.rewards.providers=[{name: 'tests.e2e.runs:Bright'}]"
MOODY = "rl.rewards.providers=[{name: 'tests.e2e.runs:Moody'}]"


def warm_up(stage_1: Callable[[list[str]], bool], options: list[str], where: Path, folder: Path) -> Path:
    """Train two updates of stage 1 in the directory `where`; return the checkpoint, from which stage 2 starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        assert stage_1([*STAGE_1, *options, "optim.max_updates=2", f"ckpts.save_dir={folder}"])
    return folder / "model_last.pt"


def until_an_update(run: subprocess.Popen[str]) -> str:
    """Read standard error of a run of 2000 updates until its progress bar has counted one; return the text."""
    assert run.stderr is not None
    output = ""
    while not re.search(r" [1-9]\d*/\d+ ", output):
        piece = os.read(run.stderr.fileno(), 4096).decode()
        output += piece
        assert piece, output
    return output


def make_data_set(folder: Path, num: int, rate: int = 16_000) -> list[str]:
    """Make recordings of noise and return the overrides that select them.

    The first lasts 0.3 s, and each next one 0.1 s longer.
    """
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
