"""Both stages with 8-bit AdamW, in half precision and with recomputed activations, from their entry points."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from safetensors.torch import save_file
from tests.test_config import STAGE_1 as GUIDE_1
from tests.test_config import STAGE_2 as GUIDE_2
from tests.test_config import words
from torch import Tensor

from f5_tts.config import compose_run
from f5_tts.data.text import RELEASED, read_vocabulary
from f5_tts.model.build import build_model
from f5_tts.model.checkpoint import published_tensors
from f5_tts.sections import RunConfig
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
FRUGAL = ["optim.bnb_optimizer=true", "model.arch.checkpoint_activations=true", "optim.num_warmup_updates=0"]


@pytest.fixture
def new_process() -> Iterator[None]:
    """accelerate keeps one precision a process."""
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
    """Two checkpoints are equal bit for bit."""
    pairs = zip(leaves(read(one)), leaves(read(other)), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def interrupted_copy(folder: Path, copy: Path) -> Path:
    """What a run leaves that is interrupted after its second update."""
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


# --- the guide's commands ---

SIZES = {"dim": 32, "depth": 2, "heads": 2, "dim_head": 16, "text_dim": 16, "conv_layers": 1}
SMALL = [f"model.arch.{key}={value}" for key, value in SIZES.items()]
STAND_INS = [
    "model.vocoder.name=griffin_lim",
    "model.vocoder.iterations=2",
    "rl.rewards.providers=[{name: speech_rate}]",
]


@pytest.fixture
def where_the_user_stands(tmp_path, monkeypatch) -> Path:
    """A folder with the guide's data set (two clips), vocabulary and base checkpoint, which is tiny and has no head."""
    monkeypatch.chdir(tmp_path)
    clips, rows = Path("data/mini_rl_custom/wavs"), []
    clips.mkdir(parents=True)
    for place, shipped in enumerate(sorted((REPOSITORY / "data/mini_custom/wavs").glob("*.flac"))[:2]):
        audio, rate = soundfile.read(shipped)
        path = clips / f"sample_{place:02d}.wav"
        soundfile.write(path, audio, rate)
        rows.append({"audio_path": str(path), "text": "ONE TWO", "duration": len(audio) / rate})
    Dataset.from_list(rows).save_to_disk(str(clips.parent / "raw"))
    (clips.parent / "duration.json").write_text(json.dumps({"duration": [row["duration"] for row in rows]}))
    Path("data/Emilia_ZH_EN_pinyin").mkdir()
    shutil.copy(RELEASED, "data/Emilia_ZH_EN_pinyin/vocab.txt")
    model = build_model(compose_run("F5TTS_v1_Base", SMALL, RunConfig).model, read_vocabulary(RELEASED))
    Path("ckpts/mini_rl_warmup").mkdir(parents=True)
    save_file(
        published_tensors(model.state_dict(), torch.float32),
        "ckpts/mini_rl_warmup/pretrained_model_1250000.safetensors",
    )
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("new_process")
def test_the_guides_two_commands_start_where_the_user_stands(where_the_user_stands, monkeypatch, capsys):
    """In the guide's environment; the network is small, and vocoder and rewards need nothing that is fetched."""
    here = where_the_user_stands
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    assert train.main(["-cn", "F5TTS_v1_Base", *words(GUIDE_1, str(here)), *SMALL])
    (here / "ckpts/mini_rl_grpo").mkdir()
    shutil.copy(here / "ckpts/mini_rl_warmup/model_last.pt", here / "ckpts/mini_rl_grpo/model_last.pt")
    assert train_rl.main([*words(GUIDE_2, str(here)), *SMALL, *STAND_INS])
    said = capsys.readouterr().out
    assert (
        "starting gaussian_nll from the ema weights of ckpts/mini_rl_warmup/pretrained_model_1250000.safetensors"
        in said
    )
    assert "starting grpo from the raw weights of ckpts/mini_rl_grpo/model_last.pt (made by gaussian_nll)" in said
    for name in ("mini_rl_warmup", "mini_rl_grpo"):
        state = read(here / "ckpts" / name / "model_last.pt")
        assert state["update"] == 2 and state["optimizer_class"] == "bitsandbytes.AdamW8bit"
    assert [row["ratio/initial_max_dev"] for row in rows(here / "ckpts/mini_rl_grpo")] == [0, 0]
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
