"""Arguments of the commands in this folder, which are read before the libraries of a command are imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from f5_tts.config.command_line import load_config
from f5_tts.config.schema import CkptsConfig, RLConfig, RLTrainConfig, TrainConfig, dataset_dir
from f5_tts.data.paths import require_data_set
from f5_tts.download.hub import require_file
from f5_tts.files import HUB


def stage_1(argv: list[str]) -> TrainConfig:
    """Load the config of train; raise FileNotFoundError if a file is missing that it names."""
    return load_config(argv, default="F5TTS_v1_Base", schema=TrainConfig, command="train", more_checks=file_checks)


def stage_2(argv: list[str]) -> RLTrainConfig:
    """Load the config of train-rl; raise FileNotFoundError if a file is missing that it names."""
    return load_config(argv, default="F5TTS_RL", schema=RLTrainConfig, command="train-rl", more_checks=file_checks)


def file_checks(cfg: TrainConfig) -> list[Callable[[], None]]:
    """List the checks of the data set, of the vocabulary and of the checkpoints that a run begins with."""
    return [*data_checks(cfg), *start_checks(cfg)]


def data_checks(cfg: TrainConfig) -> list[Callable[[], None]]:
    """List the checks of the data set and of the vocabulary."""
    return [lambda: require_data(cfg), lambda: require_vocabulary(cfg)]


def start_checks(cfg: TrainConfig) -> list[Callable[[], None]]:
    """List the checks of the checkpoints that a run begins with."""
    if not isinstance(cfg, RLTrainConfig):
        return [lambda: require_start(cfg.ckpts)]
    rl = cfg.rl
    return [lambda: require_start(cfg.ckpts), lambda: require_policy(cfg.ckpts), lambda: require_reference(rl)]


def require_data(cfg: TrainConfig) -> None:
    """Raise FileNotFoundError unless the data set is there, or one of the hub."""
    if not cfg.datasets.name.startswith(HUB):
        require_data_set(dataset_dir(cfg))


def require_vocabulary(cfg: TrainConfig) -> None:
    """Raise FileNotFoundError unless the vocabulary is there that the config names."""
    if cfg.model.tokenizer_path is not None:
        require_file(cfg.model.tokenizer_path, "model.tokenizer_path")


def require_start(ckpts: CkptsConfig) -> None:
    """Raise FileNotFoundError unless the checkpoint is there that a run starts from; one that resumes needs none."""
    is_new = not any(file for name in ("model_*", "pretrained_*") for file in Path(ckpts.save_dir).glob(name))
    if is_new and ckpts.init_from is not None:
        require_file(ckpts.init_from, "ckpts.init_from")


def require_policy(ckpts: CkptsConfig) -> None:
    """Raise FileNotFoundError unless there is a checkpoint that stage 2 starts or resumes from."""
    if ckpts.init_from is None and not any(Path(ckpts.save_dir).glob("model_*")):
        raise no_policy(ckpts.save_dir)


def no_policy(folder: Path | str) -> FileNotFoundError:
    """Build the error for a folder without a checkpoint for stage 2."""
    return FileNotFoundError(
        f"no model_last.pt or model_<update>.pt in ckpts.save_dir={folder}: copy the model_last.pt of stage 1 there, "
        "or name a checkpoint in ckpts.init_from"
    )


def require_reference(rl: RLConfig) -> None:
    """Raise FileNotFoundError unless the checkpoint of the reference is there that the config names."""
    if rl.ref_model_ckpt is not None and not Path(rl.ref_model_ckpt).is_file():
        raise FileNotFoundError(f"no checkpoint at {rl.ref_model_ckpt}, which rl.ref_model_ckpt names")
