"""The guide's blocks, run in order in a folder like a clone; only downloads and network sizes are replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from tests import guide
from tests.download.hub import Hub
from tests.e2e.published import ROOT, repositories, write_librispeech

from f5_tts.model.checkpoint import read_checkpoint
from f5_tts.rewards.asr.sensevoice import FILES
from f5_tts.train import train

pytestmark = pytest.mark.slow

# --- all differences from the guide ---

SIZES = [  # added to both training commands: a network of a few thousand weights, as in the stand-in checkpoint
    *("model.arch.dim=32", "model.arch.depth=2", "model.arch.heads=2", "model.arch.dim_head=16"),
    *("model.arch.text_dim=16", "model.arch.conv_layers=1"),
]
WORDS = {  # replaced in the text of a block
    "WANDB_MODE=online": "WANDB_MODE=offline",
    "wandb login": "wandb login --help",
    "wandb sync": "wandb sync --dry-run",
}
HOSTS = {"NO_PROXY": "127.0.0.1,localhost"}  # `Clone.environment` adds HF_ENDPOINT, the hub on loopback
# .venv links the programs of the environment that runs this test, and its `python` starts forks (`forkserver.py`)
# hf-internal-testing/librispeech_asr_dummy is a local folder

# an additional run that is not in the guide
FIRST = ["ckpts.save_dir=ckpts/single", "ckpts.logger=null", "optim.max_updates=1"]


@dataclass
class Clone:
    """A folder like a clone of the repository after its set-up, and the output of the blocks run in it."""

    folder: Path
    hub: str
    printed: dict[str, str] = field(default_factory=dict)  # by block

    def environment(self) -> dict[str, str]:
        foreign = ("HF_", "HUGGING", "WANDB", "ACCELERATE", "TRANSFORMERS", "CUDA_VISIBLE", "PYTORCH")
        own = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        home = self.folder.parent / "home"
        path = f"{self.folder / '.venv/bin'}:{own['PATH']}"
        return own | HOSTS | {"HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": self.hub, "PATH": path}

    def follow(self, block: str) -> None:
        """Run a block's text in a shell and keep its output; commands that train get `SIZES`."""
        text = f"{block.rstrip()} {' '.join(SIZES)}\n" if "f5_tts.train" in block else block
        for word, instead in WORDS.items():
            text = text.replace(word, instead)
        run = ["bash", "-e", "-c", text]
        done = subprocess.run(run, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        self.printed[block] = done.stdout + done.stderr

    def read(self, path: str) -> dict[str, Any]:
        return torch.load(self.folder / path, weights_only=True)

    def rows(self, run: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / f"ckpts/{run}/metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def clone(states_around_import: object, interpreter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """Run all blocks that install nothing; FunASR is imported here, too, for the stand-in of its model."""
    work = tmp_path_factory.mktemp("guide")
    folder = work / "f5-tts-rl"
    (folder / "data").mkdir(parents=True)
    make_venv(folder / ".venv", interpreter)
    (folder / "data/Emilia_ZH_EN_pinyin").symlink_to(ROOT / "data/Emilia_ZH_EN_pinyin")
    write_librispeech(folder / "hf-internal-testing/librispeech_asr_dummy")
    with Hub(repositories(SIZES, work)) as hub:
        made = Clone(folder, hub.url)
        for block in guide.blocks():
            if block not in guide.installs():
                made.follow(block)
        yield made


def make_venv(folder: Path, interpreter: Path) -> None:
    """Link the programs of this environment, but for its interpreter."""
    (folder / "bin").mkdir(parents=True)
    for path in Path(sys.prefix, "bin").iterdir():
        (folder / "bin" / path.name).symlink_to(interpreter if path.name == "python" else path)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_small_data_set_lies_as_the_guide_says(clone: Clone) -> None:
    folder = clone.folder / "data/mini_rl_custom"
    assert names_in(folder) == {"raw", "wavs", "duration.json"}
    table = load_from_disk(str(folder / "raw"))
    assert table.column_names == ["audio_path", "text", "duration"] and len(table) == 8
    assert table["duration"] == json.loads((folder / "duration.json").read_text())["duration"]


def test_both_reward_models_lie_where_the_guide_says(clone: Clone) -> None:
    (named,) = guide.blocks("")
    assert names_in(clone.folder / named.strip()) == {"config.yaml", "avg_model.pt"}
    assert names_in(clone.folder / "checkpoints/funasr/SenseVoiceSmall") == set(FILES)


def test_the_base_checkpoint_is_taken_from_the_hub_and_stage_1_starts_from_its_average(clone: Clone) -> None:
    name = "ckpts/mini_rl_warmup/pretrained_model_1250000.safetensors"
    assert clone.printed[guide.block_with("cached_path")] == f"{name}\n"
    output = clone.printed[guide.block_with("f5_tts.train.train ")]
    assert f"starting gaussian_nll from the ema weights of {name} (made by a run of another program)" in output
    assert f"{name} has no Gaussian head" in output
    base = read_checkpoint(clone.folder / name).weights
    after = clone.read("ckpts/mini_rl_warmup/model_last.pt")["model_state_dict"]
    moves = [float((after[name] - value).abs().max()) for name, value in base.items() if value.is_floating_point()]
    assert 0 < max(moves) < 8 * 3e-5  # eight AdamW updates at a learning rate that falls from 1e-5


@pytest.mark.parametrize("run", ["mini_rl_warmup", "mini_rl_grpo"])
def test_each_stage_leaves_model_last_after_one_update_an_item_by_8_bit_adamw(run: str, clone: Clone) -> None:
    state = clone.read(f"ckpts/{run}/model_last.pt")
    assert [row["update"] for row in clone.rows(run)] == list(range(1, 9))
    assert (state["update"], state["optimizer_class"]) == (8, "bitsandbytes.AdamW8bit")
    assert not (clone.folder / f"ckpts/{run}/samples").exists()  # ckpts.log_samples=false


def test_stage_2_starts_from_the_raw_weights_of_stage_1_with_its_counters_at_0_and_moves(clone: Clone) -> None:
    output = clone.printed[guide.block_with("f5_tts.train.train_rl ")]
    handed = "ckpts/mini_rl_grpo/model_last.pt"
    assert f"starting grpo from the raw weights of {handed} (made by gaussian_nll): optimizer, schedule and" in output
    assert f"rl.algorithm=auto: {handed} has a trained Gaussian head, so gaussian_grpo" in output
    warm = clone.read("ckpts/mini_rl_warmup/model_last.pt")["model_state_dict"]
    start = clone.read("ckpts/mini_rl_grpo/reference.pt")["model_state_dict"]
    after = clone.read("ckpts/mini_rl_grpo/model_last.pt")["model_state_dict"]
    assert all(torch.equal(value, start[name]) for name, value in warm.items())
    moved = [name for name, value in warm.items() if not torch.equal(value, after[name])]
    assert len(moved) > len(warm) / 2


def test_groups_of_one_learn_from_a_running_mean_and_that_is_said(clone: Clone) -> None:
    output = clone.printed[guide.block_with("f5_tts.train.train_rl ")]
    assert "rl.repeat_count=1 x rl.mini_repeat_count=1 makes groups of one" in output
    seen = clone.read("ckpts/mini_rl_grpo/model_last.pt")["baseline_state_dict"]
    assert seen["wespeaker_sim.sim"][0] == 8
    assert any(row["loss/pro_adv"] != 0 for row in clone.rows("mini_rl_grpo"))


def test_every_metric_that_the_guide_names_is_logged_at_every_update(clone: Clone) -> None:
    named = {"loss", "loss/kl", "loss/pro_adv", "reward/mean", "reward/std", "reward/min", "reward/max"}
    named |= {"reward/wespeaker_sim.sim", "reward/funasr_wer.acc"}
    section = guide.PATH.read_text("utf-8").partition("## W&B logging")[2]
    assert all(f"`{name}`" in section for name in named)
    for row in clone.rows("mini_rl_grpo"):
        assert named <= {name for name, value in row.items() if value is not None}
        assert -1 <= row["reward/wespeaker_sim.sim"] <= 1
        # the same policy samples and learns, in bf16 and with activation checkpointing
        assert row["ratio/initial_max_dev"] == 0
    assert {"loss", "loss/nll", "grad_norm", "lr"} <= clone.rows("mini_rl_warmup")[0].keys()


def test_bf16_was_used_and_the_first_loss_differs_from_that_in_single_precision_as_little_as_it_may(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the first update once more, in this process and without ACCELERATE_MIXED_PRECISION."""
    monkeypatch.chdir(clone.folder)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    base = "ckpts/mini_rl_warmup/pretrained_model_1250000.safetensors"
    arguments = guide.arguments("f5_tts.train.train", str(clone.folder))
    assert train.main([*arguments, *SIZES, *FIRST, f"ckpts.init_from={base}"])
    half, single = clone.rows("mini_rl_warmup")[0]["loss"], clone.rows("single")[0]["loss"]
    assert 1e-7 < abs(half - single) / abs(single) < 2**-6


def test_both_runs_wait_for_wandb_sync_in_the_guides_folder(clone: Clone) -> None:
    runs = (clone.folder / ".wandb/wandb").glob("offline-run-*/*.wandb")
    ids = [(clone.folder / f"ckpts/{run}/tracker_id").read_text().strip() for run in ("mini_rl_warmup", "mini_rl_grpo")]
    assert {path.name for path in runs} == {f"run-{id}.wandb" for id in ids}
    output = clone.printed[guide.block_with("wandb sync")]
    assert "Would sync 2 run(s)" in output and all(f"run-{id}.wandb" in output for id in ids)
    assert not (clone.folder / "wandb").exists()


@pytest.mark.parametrize(("module", "run"), [("f5_tts.train.train", "warmup"), ("f5_tts.train.train_rl", "grpo")])
def test_both_stages_train_on_all_rows_and_say_why_none_is_held_out(clone: Clone, module: str, run: str) -> None:
    said = clone.printed[guide.block_with(f" -m {module} ")]
    assert said.count("no rows are held out of a data set of fewer than 200, and this one has 8") == 1
    saved = clone.read(f"ckpts/mini_rl_{run}/model_last.pt")
    assert saved["settings"]["the data set"].startswith("8 rows ") and "validation" not in saved
