"""Command `f5-tts_finetune-cli`: fine-tuning or stage 2, by the flags of F5-TTS, each of which is a config key."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import Any, NamedTuple, NoReturn

from f5_tts.commands import find_command
from f5_tts.config.command_line import CommandLine
from f5_tts.config.load import compose_config
from f5_tts.config.schema import ConfigError, RLTrainConfig, TrainConfig
from f5_tts.entrypoint import run_command
from f5_tts.infer.settings import PUBLISHED


class Flag(NamedTuple):
    """A flag of F5-TTS that takes a value."""

    key: str  # of the config
    default: Any  # of F5-TTS; with --rl the config's value is taken instead


FLAGS = {
    "dataset_name": Flag("datasets.name", "Emilia_ZH_EN"),
    "tokenizer": Flag("model.tokenizer", "pinyin"),
    "tokenizer_path": Flag("model.tokenizer_path", None),
    "learning_rate": Flag("optim.learning_rate", 1e-5),
    "batch_size_per_gpu": Flag("datasets.batch_size_per_gpu", 3200),
    "batch_size_type": Flag("datasets.batch_size_type", "frame"),
    "max_samples": Flag("datasets.max_samples", 64),
    "grad_accumulation_steps": Flag("optim.grad_accumulation_steps", 1),
    "max_grad_norm": Flag("optim.max_grad_norm", 1.0),
    "epochs": Flag("optim.epochs", 100),
    "num_warmup_updates": Flag("optim.num_warmup_updates", 20000),
    "save_per_updates": Flag("ckpts.save_per_updates", 50000),
    "keep_last_n_checkpoints": Flag("ckpts.keep_last_n_checkpoints", -1),
    "last_per_updates": Flag("ckpts.last_per_updates", 5000),
    "logger": Flag("ckpts.logger", None),
}
SWITCHES = {"log_samples": "ckpts.log_samples", "bnb_optimizer": "optim.bnb_optimizer"}
LORA = {"lora_rank": "lora.rank", "lora_alpha": "lora.alpha"}  # flags that F5-TTS does not have
MODEL = "F5TTS_v1_Base"
RL_CONFIGS = {"F5TTS_v1_Base": "F5TTS_RL"}  # --exp_name -> config of its stage 2; of the others <exp_name>_RL


def command_line() -> CommandLine:
    """Build the argument parser."""
    parser = CommandLine(
        prog="f5-tts_finetune-cli",
        usage="f5-tts_finetune-cli --exp_name NAME --dataset_name NAME --finetune [other flags] [key=value ...]",
        description=__doc__,
    )
    parser.add_argument("--exp_name", default=MODEL, help=f"name of a config; default: {MODEL}")
    for name, (key, default) in FLAGS.items():
        parser.add_argument(f"--{name}", help=f"{key}; default: {'null' if default is None else default}")
    for name, key in (SWITCHES | LORA).items():
        action: dict[str, Any] = {"action": "store_true"} if name in SWITCHES else {}
        parser.add_argument(f"--{name}", help=key, **action)
    parser.add_argument("--finetune", action="store_true", help="start from --pretrain, not from random weights")
    parser.add_argument("--pretrain", help="checkpoint to start from (ckpts.init_from); default: the published one")
    parser.add_argument("--rl", action="store_true", help="train stage 2, by rewards; other defaults are its config's")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="any other key, after the flags")
    return parser


def overrides_of(args: Namespace) -> list[str]:
    """Return the overrides that the flags stand for; those that are written out come last."""
    given = {name: getattr(args, name) for name in FLAGS if getattr(args, name) is not None}
    defaults = {} if args.rl else {name: flag.default for name, flag in FLAGS.items()}
    name = given.get("dataset_name", FLAGS["dataset_name"].default)
    values = {FLAGS[flag].key: value for flag, value in {**defaults, "dataset_name": name, **given}.items()}
    values |= {key: True for switch, key in SWITCHES.items() if getattr(args, switch)}
    values |= {key: getattr(args, flag) for flag, key in LORA.items() if getattr(args, flag) is not None}
    values |= {
        "ckpts.save_dir": f"ckpts/{name}_rl" if args.rl else f"ckpts/{name}",
        "ckpts.wandb_project": name,
        "ckpts.wandb_run_name": config_name(args),
        "ckpts.init_from": start_of(args),
    }
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()] + args.overrides


def config_name(args: Namespace) -> str:
    """Return the name of the config: that of the model, or that of its stage 2."""
    name = args.exp_name.removesuffix(".yaml")
    return RL_CONFIGS.get(name, f"{name}_RL") if args.rl else name


def start_of(args: Namespace) -> str | None:
    """Return the checkpoint that a new run starts from; None means random weights.

    Raises ConfigError where none is published, and for --pretrain without --finetune, which F5-TTS ignores.
    """
    if not (args.finetune or args.rl):
        if args.pretrain:
            raise ConfigError(f"--pretrain {args.pretrain} is where --finetune starts from: add --finetune")
        return None
    if not args.pretrain and args.exp_name not in PUBLISHED:
        raise ConfigError(f"no checkpoint of {args.exp_name} is published: name the one to start from, --pretrain FILE")
    return args.pretrain or PUBLISHED[args.exp_name]


def run_cli(argv: list[str]) -> bool:
    """Train what the flags stand for; return False when stopped early."""
    cfg = compose(argv)
    return find_command("train-rl" if isinstance(cfg, RLTrainConfig) else "train").start(cfg)


def compose(argv: list[str]) -> TrainConfig:
    """Compose the config that the flags stand for."""
    args = command_line().parse_intermixed_args(argv)
    return compose_config(config_name(args), overrides_of(args), RLTrainConfig if args.rl else TrainConfig)


def main() -> NoReturn:
    """Run the command with the arguments of the process."""
    run_command(run_cli, sys.argv[1:])


if __name__ == "__main__":
    main()
