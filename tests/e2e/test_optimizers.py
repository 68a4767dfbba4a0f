"""Both stages from their entry points, with 8-bit AdamW, in half precision and with activation checkpointing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from f5_tts.train import train, train_rl

REPOSITORY = Path(__file__).parents[2]
STAGE_1 = ["-cn", "F5TTS_Mini", "model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
STAGE_1 += ["datasets.batch_size_per_gpu=500"]
STAGE_2 = ["-cn", "F5TTS_Mini_RL", "datasets.batch_size_per_gpu=2", "rl.mini_repeat_count=2", "rl.steps=4"]
STAGE_2 += [
    "rl.algorithm=gaussian_grpo",
    "rl.shared_noise=true",
    "rl.rewards.providers=[{name: voice_sim}]",
    "rl.credit=sample",
]
FRUGAL = [
    "optim.bnb_optimizer=true",
    "optim.mixed_precision=launcher",
    "model.arch.checkpoint_activations=true",
    "optim.num_warmup_updates=0",
]


@pytest.fixture
def new_process() -> Iterator[None]:
    """Reset accelerate's state, since it keeps one precision per process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def leaves(state: Any) -> list[Any]:
    if isinstance(state, dict | list):
        return [leaf for part in (state.values() if isinstance(state, dict) else state) for leaf in leaves(part)]
    return [state]


def same(one: Path, other: Path) -> bool:
    """Check whether two checkpoints are equal bit for bit."""
    pairs = zip(leaves(read(one)), leaves(read(other)), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def interrupted_copy(folder: Path, copy: Path) -> Path:
    """Copy what a run interrupted after its second update would leave."""
    copy.mkdir()
    shutil.copy(folder / "model_2.pt", copy / "model_last.pt")
    for path in [folder / "metrics.jsonl", *folder.glob("reference.pt")]:
        shutil.copy(path, copy)
    return copy


@pytest.mark.slow
@pytest.mark.usefixtures("at_home", "new_process")
def test_both_stages_train_in_eight_bits_and_fp16_and_go_on_bit_for_bit(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    commands = {train: [*STAGE_1, *tiny, *FRUGAL], train_rl: [*STAGE_2, *tiny, *FRUGAL]}
    before = None
    for entry, options in commands.items():
        folder = tmp_path / entry.__name__
        start = [] if before is None else [f"ckpts.init_from={before}"]
        assert entry.main([*options, *start, f"ckpts.save_dir={folder}"])
        state = read(folder / "model_last.pt")
        assert state["optimizer_class"] == "bitsandbytes.AdamW8bit" and state["update"] == 4
        assert state["scaler_state_dict"]["scale"] == 2**16
        assert rows(folder)[-1]["health/nonfinite_skips"] == 0
        assert all(row.get("ratio/initial_max_dev", 0.0) == 0 for row in rows(folder))
        resumed = interrupted_copy(folder, tmp_path / f"{entry.__name__}_resumed")
        assert entry.main([*options, f"ckpts.save_dir={resumed}"])
        assert same(resumed / "model_last.pt", folder / "model_last.pt")
        before = folder / "model_last.pt"
