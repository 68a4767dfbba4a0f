"""Arguments of the commands in this folder, which are read before the libraries of a command are imported."""

from __future__ import annotations

from pathlib import Path

from f5_tts.config.command_line import load_config
from f5_tts.config.schema import RLTrainConfig, TrainConfig, dataset_dir
from f5_tts.data.paths import require_data_set
from f5_tts.download.hub import require_file
from f5_tts.files import HUB


def stage_1(argv: list[str]) -> TrainConfig:
    """Load the config of train; raise FileNotFoundError if a file is missing that it names."""
    cfg = load_config(argv, default="F5TTS_v1_Base", schema=TrainConfig, command="train")
    require_files(cfg)
    return cfg


def stage_2(argv: list[str]) -> RLTrainConfig:
    """Load the config of train-rl; raise FileNotFoundError if a file is missing that it names."""
    cfg = load_config(argv, default="F5TTS_RL", schema=RLTrainConfig, command="train-rl")
    require_files(cfg)
    if cfg.rl.ref_model_ckpt is not None and not Path(cfg.rl.ref_model_ckpt).is_file():
        raise FileNotFoundError(f"no checkpoint at {cfg.rl.ref_model_ckpt}, which rl.ref_model_ckpt names")
    return cfg


def require_files(cfg: TrainConfig) -> None:
    """Raise FileNotFoundError unless the data set and, for a new run, the checkpoint that it starts from are there."""
    if not cfg.datasets.name.startswith(HUB):
        require_data_set(dataset_dir(cfg))
    is_new = not any(Path(cfg.ckpts.save_dir).glob("model_*.pt"))
    if is_new and cfg.ckpts.init_from is not None:
        require_file(cfg.ckpts.init_from, "ckpts.init_from")
