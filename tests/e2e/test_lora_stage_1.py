"""Ordinary training of adapters: what is trained, what a checkpoint holds, and how a run resumes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tests.e2e.runs import SMALL_BATCHES, assert_equal, read

from f5_tts.config.schema import ConfigError
from f5_tts.model.checkpoint import read_checkpoint
from f5_tts.train import train
from f5_tts.train.checkpoint_dir import initial_weights

LORA = ["lora.rank=2", "lora.target_modules=[to_q,ff.2]", "optim.learning_rate=0.01"]


@pytest.fixture(scope="module")
def options(at_home, tiny, tmp_path_factory) -> list[str]:
    """Make a small model; return the options of runs that start from it."""
    folder = tmp_path_factory.mktemp("base")
    plain = ["-cn", "F5TTS_Mini", *tiny, SMALL_BATCHES, "optim.num_warmup_updates=0", "optim.max_updates=2"]
    assert train.main([*plain, f"ckpts.save_dir={folder}"])
    return [*plain, *LORA, f"ckpts.init_from={folder}/model_last.pt", "ckpts.last_per_updates=1"]


@pytest.mark.slow
def test_adapters_alone_are_trained_and_a_resumed_run_ends_as_one_that_was_never_stopped(options, tmp_path: Path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train.main([*options, f"ckpts.save_dir={whole}", "ckpts.save_per_updates=1"])
    halves.mkdir()
    shutil.copy(whole / "model_1.pt", halves / "model_last.pt")
    shutil.copy(whole / "reference.pt", halves)
    assert train.main([*options, f"ckpts.save_dir={halves}", "ckpts.save_per_updates=1"])
    assert_equal(halves / "model_last.pt", whole / "model_last.pt")
    start, end = (read(whole / name)["model_state_dict"] for name in ("reference.pt", "model_last.pt"))
    changed = {name for name, value in end.items() if not torch.equal(value, start[name])}
    assert changed == {name for name in end if name.endswith(("to_q.weight", "ff.2.weight"))} != set()
    last = read_checkpoint(whole / "model_last.pt")
    assert last.payload["lora"]["settings"]["rank"] == 2
    assert initial_weights(last, "grpo") is last  # stage 2 starts from the merged weights


def test_adapters_need_a_trained_model_and_the_whole_of_it(at_home, tiny, tmp_path: Path):
    command = ["-cn", "F5TTS_Mini", *tiny, "optim.max_updates=2", f"ckpts.save_dir={tmp_path / 'run'}", *LORA]
    with pytest.raises(ValueError, match=r"lora\.rank=2 trains adapters of a trained model, .* ckpts\.init_from"):
        train.main(command)
    head = ["model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
    with pytest.raises(ConfigError, match=r"model\.warmup_scope=head trains the Gaussian head alone, and lora\.rank=2"):
        train.main([*command, *head, "model.warmup_scope=head"])
