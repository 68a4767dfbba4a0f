"""Flags of F5-TTS's command for fine-tuning: what config they stand for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from f5_tts.commands import Command
from f5_tts.config.foreign import find_foreign
from f5_tts.config.schema import ConfigError, RLTrainConfig, TrainConfig
from f5_tts.infer.settings import PUBLISHED
from f5_tts.train import finetune_cli


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the command and returns the config that would be trained."""
    configs = []
    monkeypatch.setattr(Command, "start", lambda command, cfg: configs.append((command.name, cfg)) or True)

    def run(line: str) -> Any:
        assert finetune_cli.run_cli(line.split())
        name, cfg = configs[-1]
        assert name == ("train-rl" if "--rl" in line.split() else "train")
        return cfg

    return run


def test_a_flag_is_the_key_that_its_name_stands_for_in_every_command() -> None:
    """Compare the flags that the table of names of other projects has, too."""
    known = {name: find_foreign(name) for name in finetune_cli.FLAGS}
    keys = {name: foreign.key for name, foreign in known.items() if foreign is not None and not foreign.difference}
    assert len(keys) >= 8
    assert keys == {name: finetune_cli.FLAGS[name].key for name in keys}
    assert [name for name, foreign in known.items() if foreign is not None and foreign.difference] == []


def test_without_flags_the_values_are_those_of_f5_tts(composed) -> None:
    cfg = composed("--finetune")
    assert type(cfg) is TrainConfig and cfg.model.name == "F5TTS_v1_Base"
    assert (cfg.datasets.name, cfg.model.tokenizer, cfg.model.tokenizer_path) == ("Emilia_ZH_EN", "pinyin", None)
    assert (cfg.optim.learning_rate, cfg.optim.epochs, cfg.optim.num_warmup_updates) == (1e-5, 100, 20000)
    assert (cfg.datasets.batch_size_per_gpu, cfg.datasets.batch_size_type, cfg.datasets.max_samples) == (
        3200,
        "frame",
        64,
    )
    assert (cfg.optim.grad_accumulation_steps, cfg.optim.max_grad_norm, cfg.optim.bnb_optimizer) == (1, 1.0, False)
    assert (cfg.ckpts.save_per_updates, cfg.ckpts.last_per_updates) == (50000, 5000)
    assert (cfg.ckpts.keep_last_n_checkpoints, cfg.ckpts.logger, cfg.ckpts.log_samples) == (-1, None, False)
    assert (cfg.ckpts.save_dir, cfg.ckpts.init_from) == ("ckpts/Emilia_ZH_EN", PUBLISHED["F5TTS_v1_Base"])


def test_every_flag_of_f5_tts_changes_its_key(composed) -> None:
    cfg = composed(
        "--exp_name E2TTS_Base --dataset_name mine --learning_rate 2e-5 --batch_size_per_gpu 4 "
        "--batch_size_type sample --max_samples 8 --grad_accumulation_steps 2 --max_grad_norm 0.5 --epochs 3 "
        "--num_warmup_updates 7 --save_per_updates 10 --keep_last_n_checkpoints 2 --last_per_updates 5 "
        "--finetune --pretrain my/base.pt --tokenizer custom --tokenizer_path my/vocab.txt "
        "--log_samples --logger tensorboard --bnb_optimizer"
    )
    assert (cfg.model.name, cfg.model.backbone, cfg.datasets.name) == ("E2TTS_Base", "UNetT", "mine")
    assert (cfg.optim.learning_rate, cfg.optim.grad_accumulation_steps, cfg.optim.max_grad_norm) == (2e-5, 2, 0.5)
    assert (cfg.datasets.batch_size_per_gpu, cfg.datasets.batch_size_type, cfg.datasets.max_samples) == (4, "sample", 8)
    assert (cfg.optim.epochs, cfg.optim.num_warmup_updates, cfg.optim.bnb_optimizer) == (3, 7, True)
    assert (cfg.ckpts.save_per_updates, cfg.ckpts.keep_last_n_checkpoints, cfg.ckpts.last_per_updates) == (10, 2, 5)
    assert (cfg.ckpts.save_dir, cfg.ckpts.init_from) == ("ckpts/mine", "my/base.pt")
    assert (cfg.model.tokenizer, cfg.model.tokenizer_path) == ("custom", "my/vocab.txt")
    assert (cfg.ckpts.log_samples, cfg.ckpts.logger) == (True, "tensorboard")
    assert (cfg.ckpts.wandb_project, cfg.ckpts.wandb_run_name) == ("mine", "E2TTS_Base")


def test_without_finetune_the_weights_are_random_ones(composed) -> None:
    assert composed("--dataset_name mine").ckpts.init_from is None


@pytest.mark.parametrize(
    ("name", "config"),
    [("F5TTS_v1_Base", "F5TTS_RL"), ("F5TTS_Base", "F5TTS_Base_RL"), ("E2TTS_Base", "E2TTS_Base_RL")],
)
def test_stage_2_starts_from_the_published_model_with_the_values_of_its_config(composed, name: str, config: str):
    cfg = composed(f"--rl --exp_name {name} --dataset_name mine --lora_rank 8 --lora_alpha 4 --epochs 2 rl.steps=4")
    assert type(cfg) is RLTrainConfig and cfg.ckpts.wandb_run_name == config
    assert (cfg.ckpts.init_from, cfg.ckpts.save_dir) == (PUBLISHED[name], "ckpts/mine_rl")
    assert (cfg.lora.rank, cfg.lora.alpha, cfg.rl.steps, cfg.optim.epochs) == (8, 4.0, 4, 2)
    assert (cfg.optim.learning_rate, cfg.datasets.batch_size_type) == (1e-6, "sample")  # of F5TTS_RL
    base = composed(f"--exp_name {name}").model
    assert (cfg.model.backbone, cfg.model.arch, cfg.model.mel_spec) == (base.backbone, base.arch, base.mel_spec)


def test_the_commands_of_the_page_compose(composed) -> None:
    page = (Path(__file__).parents[2] / "docs/compatibility.md").read_text("utf-8")
    lines = re.findall(r"^\.venv/bin/f5-tts_finetune-cli (.*)$", page, re.MULTILINE)
    assert [type(composed(line)) for line in lines] == [TrainConfig, RLTrainConfig]


def test_adapters_are_trained_without_stage_2_too(composed) -> None:
    cfg = composed("--finetune --lora_rank 4")
    assert type(cfg) is TrainConfig and (cfg.lora.rank, cfg.lora.target_modules[-1]) == (4, "ff.2")


def test_flags_may_be_abbreviated_and_any_key_may_follow(composed) -> None:
    cfg = composed("--dataset mine --finet optim.seed=3 ckpts.save_dir=elsewhere")
    assert (cfg.datasets.name, cfg.optim.seed, cfg.ckpts.save_dir) == ("mine", 3, "elsewhere")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--exp_name F5TTS_v1_Bse", "no config is named F5TTS_v1_Bse: did you mean F5TTS_v1_Base?"),
        ("--exp_name F5TTS_Small --rl", "no checkpoint of F5TTS_Small is published"),
        ("--pretrain a.pt", "--pretrain a.pt is where --finetune starts from: add --finetune"),
        ("--epochs x", "optim.epochs is a whole number, 1 or more"),
        ("--frob 3", "unrecognized arguments: --frob; usage: f5-tts_finetune-cli --exp_name NAME"),
    ],
)
def test_a_mistake_gets_one_sentence(composed, line: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(line)
    assert words in str(caught.value)
