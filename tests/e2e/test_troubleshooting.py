"""The entries of the guide's section Troubleshooting."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import guide
from tests.e2e.conftest import REPOSITORY
from tests.rewards.wespeaker import change_config, make_directory

from f5_tts.train import train, train_rl

STAGE_1 = ["-cn", "F5TTS_Mini", "model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
STAGE_2 = ["-cn", "F5TTS_Mini_RL", "rl.algorithm=flow_grpo", "rl.shared_noise=true", "rl.credit=sample"]
BASE = "ckpts.init_from=pretrained/F5TTS_Mini/model_800.safetensors"


def test_the_section_has_no_other_entry() -> None:
    section = guide.PATH.read_text("utf-8").partition("## Troubleshooting")[2]
    entries = [line[2:] for line in section.splitlines() if line.startswith("- ")]
    begins = ["`num_workers=0`", "If WeSpeaker errors", "If FunASR is missing", "If checkpoint saves fail"]
    assert [entry.startswith(words) for entry, words in zip(entries, begins, strict=True)] == [True] * 4


# --- num_workers=0 is safe ---


def test_a_run_without_loading_processes_is_the_same_as_one_with_them(tiny, at_home, tmp_path) -> None:
    def run(workers: int) -> list[dict[str, Any]]:
        folder = tmp_path / str(workers)
        assert train.main([*STAGE_1, *tiny, f"datasets.num_workers={workers}", f"ckpts.save_dir={folder}"])
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{key: row[key] for key in ("update", "epoch", "loss", "loss/nll", "grad_norm")} for row in rows]

    assert run(0) == run(1)
    weights = [torch.load(tmp_path / f"{n}/model_last.pt", weights_only=True)["model_state_dict"] for n in (0, 1)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


# --- a WeSpeaker model with another frontend ---


@pytest.mark.parametrize("frontend", ["s3prl", "whisper_encoder", "w2vbert"])
def test_a_wespeaker_model_of_another_frontend_ends_the_run_with_what_it_needs(
    frontend: str, at_home: None, tmp_path: Path
) -> None:
    folder = make_directory(tmp_path / "model", m_channels=8)
    change_config(folder, "dataset_args.frontend", frontend)
    reward = f"rl.rewards.providers=[{{name: wespeaker_sim, config: {{model_dir: {folder}}}}}]"
    output = rf"frontend: {frontend}; .* fbank-only.* s3prl, whisper or peft.* fbank model"
    with pytest.raises(ValueError, match=output):
        train_rl.main([*STAGE_2, BASE, "datasets.name=mini", reward, f"ckpts.save_dir={tmp_path / 'run'}"])


# --- FunASR is missing ---


@pytest.mark.slow
def test_without_funasr_a_run_ends_before_its_model_is_built_with_the_extras_to_install(tmp_path: Path) -> None:
    asked = "import sys; sys.modules['funasr'] = None\n"  # importing it raises ImportError from now on
    asked += "from f5_tts.entrypoint import run_command; from f5_tts.train.train_rl import main; "
    asked += "run_command(main, sys.argv[1:])"
    reward = f"rl.rewards.providers=[{{name: funasr_wer, config: {{model_id: {tmp_path}}}}}]"
    words = [*STAGE_2, BASE, "datasets.name=mini", reward, f"ckpts.save_dir={tmp_path / 'run'}"]
    run = [sys.executable, "-m", "tests.program", asked, *words]
    done = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    output = 'error: funasr_wer needs funasr; run: pip install -e ".[reward_funasr]" (or ".[rl]", which includes it)\n'
    assert (done.returncode, done.stderr) == (2, output)


# --- the disk is full ---

MOUNT = ["unshare", "--user", "--map-root-user", "--mount"]  # a mount namespace that ends with the process
SMALL_DISK = 'mount -t tmpfs -o size="$1" none "$2"'
NO_LARGE_FILE = 'ulimit -f $(("$1" / 1024))'  # if mounting is not allowed: limit the size of files


def can_mount(folder: Path) -> bool:
    asked = [*MOUNT, "bash", "-c", SMALL_DISK, "bash", "64k", str(folder)]
    return shutil.which("unshare") is not None and subprocess.run(asked, capture_output=True).returncode == 0


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that resumes a run from a checkpoint in a folder of limited size (bytes).

    The folder is copied to `kept` afterwards.
    """

    def run(size: int, start: Path, *words: str) -> subprocess.CompletedProcess[str]:
        disk, kept = tmp_path / "disk", tmp_path / "kept"
        disk.mkdir()
        mounts = can_mount(disk)
        steps = [SMALL_DISK if mounts else NO_LARGE_FILE, 'cp "$3" "$2/model_last.pt"', '"${@:5}"; code=$?']
        steps += ['cp -r "$2" "$4"', "exit $code"]
        command = [sys.executable, "-m", "f5_tts.train.train", *words, f"ckpts.save_dir={disk}"]
        shell = [*(MOUNT if mounts else []), "bash", "-c", "\n".join(steps), "bash"]
        arguments = [str(size), str(disk), str(start), str(kept), *command]
        return subprocess.run([*shell, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before_and_names_the_key_and_the_run_goes_on_elsewhere(
    tiny: list[str], at_home: None, tmp_path: Path, on_a_small_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    first = tmp_path / "first"
    assert train.main([*STAGE_1, *tiny, "optim.max_updates=3", f"ckpts.save_dir={first}"])
    start = first / "model_last.pt"
    size = start.stat().st_size
    done = on_a_small_disk(size + size // 2, start, *STAGE_1, *tiny, "optim.max_updates=4", "ckpts.save_per_updates=9")
    assert done.returncode == 2, done.stderr
    output = done.stderr.splitlines()[-1]
    assert output.startswith(f"error: cannot write {tmp_path / 'disk'}/model_last.pt (")
    assert f"point ckpts.save_dir={tmp_path / 'disk'} to a larger volume" in output
    kept = tmp_path / "kept"
    assert {path.name for path in kept.iterdir()} == {".lock", "metrics.jsonl", "model_last.pt", "run.yaml"}
    assert (kept / "model_last.pt").read_bytes() == start.read_bytes()
    assert train.main([*STAGE_1, *tiny, "optim.max_updates=4", f"ckpts.save_dir={kept}"])
    assert torch.load(kept / "model_last.pt", weights_only=True)["update"] == 4
