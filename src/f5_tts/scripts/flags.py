"""Arguments of the commands in this folder, which are read before the libraries of a command are imported."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path

from f5_tts.commands import new_parser
from f5_tts.config.checks import require
from f5_tts.config.command_line import key_parser, load_config, read_keys
from f5_tts.config.load import compose_config, schema_of
from f5_tts.config.schema import TOKENIZERS, ConfigError, EvalConfig, RLTrainConfig, TrainConfig
from f5_tts.config.yaml_files import read_yaml
from f5_tts.data.paths import require_data_set
from f5_tts.doctor.missing_files import missing_files
from f5_tts.download.hub import require_file
from f5_tts.files import HUB, user_path
from f5_tts.infer.settings import MODEL
from f5_tts.threads import usable_cpus

FORMATS = ("csv", "ljspeech", "folder", "jsonl")  # of a new data set
WITHOUT_MEMORY = ("rl.prompt_frac_range=", "datasets.pair_speakers=")  # keys that the memory does not depend on
CHECK_FLAGS = {  # of check-dataset, by the key of the training
    "model.tokenizer": "--tokenizer",
    "model.tokenizer_path": "--vocab",
    "datasets.max_seconds": "--max_seconds",
}
DTYPES = ("float32", "float16", "bfloat16")

# --- data sets ---


def prepare_parser() -> ArgumentParser:
    """Build the argument parser of prepare."""
    parser = new_parser("prepare")
    parser.add_argument("source", type=user_path, metavar="INPUT", help="a CSV or JSONL file, or a folder")
    parser.add_argument("folder", type=user_path, metavar="OUT_DIR", help="data/NAME_TOKENIZER")
    parser.add_argument("--format", choices=FORMATS, help="default: detected")
    parser.add_argument(
        "--tokenizer", choices=TOKENIZERS, help="default: as OUT_DIR's name ends, else custom (characters)"
    )
    parser.add_argument(
        "--base_vocab",
        type=user_path,
        metavar="FILE",
        help="the vocabulary of the model to fine-tune: vocab.txt gets its lines, then the new symbols of the texts",
    )
    parser.add_argument("--copy", action="store_true", help="copy audio to OUT_DIR/wavs; default: it stays where it is")
    add_flags(parser)
    return parser


def prepare(argv: list[str]) -> Namespace:
    """Read the arguments of prepare; raise FileNotFoundError unless INPUT is there."""
    arguments = prepare_parser().parse_args(argv)
    if not arguments.source.exists():
        raise FileNotFoundError(f"no file or folder at {arguments.source}")
    return arguments


def check_dataset_parser() -> ArgumentParser:
    """Build the argument parser of check-dataset."""
    parser = new_parser("check-dataset")
    parser.add_argument(
        "folder",
        type=folder_or_hub,
        metavar="DIR",
        help="with raw/ (or raw.arrow) and duration.json, or hf:// as in datasets.name",
    )
    parser.add_argument(
        "--vocab", type=user_path, metavar="FILE", help="a symbol a line; default: vocab.txt of the folder"
    )
    parser.add_argument("--tokenizer", choices=TOKENIZERS, help="default: as DIR's name ends, else custom (characters)")
    parser.add_argument("--plot", type=user_path, metavar="FILE", help="a histogram of the durations, as PNG")
    parser.add_argument(
        "--report",
        type=user_path,
        metavar="FILE",
        help="file for all findings; default: check.jsonl in DIR, or here",
    )
    add_flags(parser)
    return parser


def check_dataset(argv: list[str]) -> Namespace:
    """Read the arguments of check-dataset, some of which may be keys of the training.

    Raises FileNotFoundError unless the folder is a data set.
    """
    arguments = check_dataset_parser().parse_args([as_flag(word) for word in argv])
    if isinstance(arguments.folder, Path):
        require_data_set(arguments.folder)
    if arguments.vocab:
        require_file(str(arguments.vocab), "--vocab")
    return arguments


def as_flag(word: str) -> str:
    """Return an argument of check-dataset, which has flags for some keys of the training."""
    key, _, value = word.partition("=")
    return f"{CHECK_FLAGS[key]}={value}" if key in CHECK_FLAGS else word


def folder_or_hub(text: str) -> Path | str:
    """Convert the argument that names the data set: a folder, or a name of the hub."""
    return text if text.startswith(HUB) else user_path(text)


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags of commands that read audio: --workers and --max_seconds."""
    max_seconds, num = read_yaml("_base").datasets.max_seconds, usable_cpus()
    max_help = "longest recording, s, as datasets.max_seconds of the training; default: %(default)s"
    parser.add_argument("--workers", type=positive(int), default=num, metavar="N", help="default: %(default)s")
    parser.add_argument("--max_seconds", type=positive(float), default=max_seconds, metavar="S", help=max_help)


def positive(kind: type[int] | type[float]) -> Callable[[str], int | float]:
    """Return an argparse type that parses a number above 0."""

    def number(text: str) -> int | float:
        if not kind(text) > 0:  # this form also refuses NaN
            raise ArgumentTypeError(f"{text} is not above 0")
        return kind(text)

    return number


def fraction(text: str) -> float:
    """Parse a number above 0 and at most 1; raise ArgumentTypeError for any other."""
    if not 0 < float(text) <= 1:
        raise ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return float(text)


# --- checkpoints ---


def extend_vocab_parser() -> ArgumentParser:
    """Build the argument parser of extend-vocab."""
    parser = new_parser("extend-vocab")
    parser.add_argument("checkpoint", metavar="CKPT", help="a path or hf://org/repo/path")
    parser.add_argument("vocab", type=user_path, metavar="VOCAB", help="a symbol a line, in any order")
    parser.add_argument(
        "folder", type=user_path, metavar="OUT", help="gets the checkpoint, and a vocab.txt that begins with its own"
    )
    parser.add_argument(
        "--base_vocab",
        type=user_path,
        metavar="FILE",
        help="the vocabulary of a checkpoint that does not hold it; default: vocab.txt beside it, or with 2545 symbols "
        "the released one",
    )
    return parser


def extend_vocab(argv: list[str]) -> Namespace:
    """Read the arguments of extend-vocab; raise FileNotFoundError unless the files are there."""
    arguments = extend_vocab_parser().parse_args(argv)
    require_file(arguments.checkpoint, "CKPT")
    require_file(str(arguments.vocab), "VOCAB")
    if arguments.base_vocab:
        require_file(str(arguments.base_vocab), "--base_vocab")
    return arguments


def export_parser() -> ArgumentParser:
    """Build the argument parser of export."""
    parser = new_parser("export")
    parser.add_argument("checkpoint", type=user_path, metavar="CKPT")
    parser.add_argument("folder", type=user_path, metavar="FOLDER", help="gets model_<update>.safetensors and the rest")
    parser.add_argument("--weights", choices=["raw", "ema"], help="default: those that the checkpoint recommends")
    parser.add_argument("--vocab", type=user_path, help="the vocabulary, for a checkpoint that does not hold its own")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="default: float32, and float16 for models smaller than published ones"
    )
    card = parser.add_argument_group("model card")
    card.add_argument(
        "--base_model", metavar="ORG/NAME", help="default: the published F5-TTS for a model of its size, else none"
    )
    card.add_argument("--license", metavar="ID", help="e.g. cc-by-nc-4.0; default: that of the base model")
    card.add_argument("--languages", nargs="+", default=[], metavar="CODE", help="e.g. en zh")
    card.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="what it was trained on")
    card.add_argument("--eval", type=user_path, metavar="FOLDER", help="evaluation (eval.out) with results and clips")
    card.add_argument("--push", metavar="ORG/NAME", help="upload the folder to this model of the Hugging Face hub")
    return parser


def export(argv: list[str]) -> Namespace:
    """Read the arguments of export; raise FileNotFoundError unless the checkpoint is there."""
    arguments = export_parser().parse_args(argv)
    if not arguments.checkpoint.is_file():
        raise FileNotFoundError(f"no checkpoint at {arguments.checkpoint}")
    return arguments


def interpolate_parser() -> ArgumentParser:
    """Build the argument parser of interpolate."""
    parser = new_parser("interpolate")
    parser.add_argument("checkpoint", type=user_path, metavar="CKPT", help="of a run of stage 2, e.g. model_best.pt")
    parser.add_argument("out", type=user_path, metavar="OUT", help="gets the weights; a file that ends in .safetensors")
    parser.add_argument(
        "--share",
        type=fraction,
        default=0.8,
        help="of the way from the first weights to those of CKPT; above 0, at most 1; default: 0.8",
    )
    parser.add_argument("--base", type=user_path, metavar="FILE", help="the first weights; default: those CKPT names")
    parser.add_argument("--weights", choices=["raw", "ema"], help="of CKPT; default: those that it recommends")
    return parser


def interpolate(argv: list[str]) -> Namespace:
    """Read the arguments of interpolate; raise FileNotFoundError unless the files are there."""
    arguments = interpolate_parser().parse_args(argv)
    require_file(str(arguments.checkpoint), "CKPT")
    if arguments.base:
        require_file(str(arguments.base), "--base")
    return arguments


def report_parser() -> ArgumentParser:
    """Build the argument parser of report."""
    parser = new_parser("report")
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="a folder: ckpts.save_dir or eval.out")
    parser.add_argument("--out", type=user_path, metavar="FILE", help="default: report.html in the first folder")
    parser.add_argument("--before", metavar="TITLE", help="evaluation to compare with; default: an untrained model's")
    parser.add_argument("--judge", metavar="NAME", help="recogniser of the verdict; default: the first, but a reward")
    parser.add_argument("--title", default="", help="of the page")
    return parser


def report(argv: list[str]) -> Namespace:
    """Read the arguments of report; raise FileNotFoundError if a folder is missing that they name."""
    arguments = report_parser().parse_args(argv)
    for folder in arguments.runs:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no folder at {folder}; a report is of a run (ckpts.save_dir) or an evaluation (eval.out)"
            )
    return arguments


def ui(argv: list[str]) -> Namespace:
    """Read the arguments of ui; raise FileNotFoundError if there is no such folder."""
    parser = new_parser("ui")
    parser.add_argument("folder", nargs="?", type=user_path, default=Path(), help="no other file is read or written")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 listens to other machines; they need the token")
    parser.add_argument("--port", type=int, default=7860)
    arguments = parser.parse_args(argv)
    if not arguments.folder.is_dir():
        raise FileNotFoundError(f"no folder at {arguments.folder}")
    return arguments


def serve_speech_parser() -> ArgumentParser:
    """Build the argument parser of serve-speech."""
    parser = new_parser("serve-speech")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 listens to other machines, too")
    parser.add_argument("--port", type=int, default=9998)
    parser.add_argument("--model", default=MODEL, help="name of a config; default: %(default)s")
    parser.add_argument("--ckpt_file", default="", help="weights: a path or hf://org/repo/path; default: the published")
    parser.add_argument("--vocab_file", default="", help="vocabulary, as for weights; default: that of the model")
    parser.add_argument("--ref_audio", help="a recording of the voice; default: a packaged example")
    parser.add_argument("--ref_text", default="", help="its transcript; without it, Whisper transcribes the recording")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, xpu, mps, ...; default: a GPU if there is one")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the weights")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="of the config, e.g. infer.nfe_step=16")
    return parser


def serve_speech(argv: list[str]) -> Namespace:
    """Read the arguments of serve-speech; raise FileNotFoundError if a file is missing that they name."""
    arguments = serve_speech_parser().parse_intermixed_args(argv)
    for key in ("ckpt_file", "vocab_file", "ref_audio"):
        if name := getattr(arguments, key):
            require_file(name, f"--{key}")
    return arguments


# --- runs ---


def doctor(argv: list[str]) -> tuple[str, TrainConfig, list[str]]:
    """Read the arguments of doctor: the config's name, the config, and the checks that files are missing for.

    The lines of these checks are printed here, before the libraries are imported that the other checks need.
    """
    args = read_keys(key_parser("doctor", "F5TTS_RL"), argv)
    cfg, failed = compose_config(args.config_name, args.overrides, schema_of(args.config_name)), []
    for check, message in missing_files(cfg):
        print(f"FAIL {check}: {message}", flush=True)
        failed.append(check)
    return args.config_name, cfg, failed


def budget(argv: list[str]) -> tuple[Namespace, RLTrainConfig]:
    """Read the arguments of budget, and the config."""
    parser = key_parser("budget", "F5TTS_RL")
    parser.add_argument("--seconds", type=float, help="the longest clip, s; default: datasets.max_seconds")
    parser.add_argument("--limit", type=float, default=8.0, help="memory of the GPU, GB; default: 8")
    parser.add_argument(
        "--processes", type=int, default=2, help="processes that shard the model with optim.shard=true; default: 2"
    )
    args = read_keys(parser, argv)
    cfg = with_clip_length(args, "limit")
    require(args.processes > 1, f"--processes={args.processes} is not allowed; allowed: 2 or more")
    return args, cfg


def scale(argv: list[str]) -> tuple[Namespace, RLTrainConfig]:
    """Read the arguments of scale, and the config."""
    parser = key_parser("scale", "F5TTS_RL")
    parser.add_argument("--seconds", type=float, help="the longest clip, s; default: datasets.max_seconds")
    parser.add_argument("--inside", type=float, default=200.0, help="GB/s between GPUs of a node; default: 200")
    parser.add_argument("--between", type=float, default=50.0, help="GB/s between nodes of 8 GPUs; default: 50")
    args = read_keys(parser, argv)
    cfg = with_clip_length(args, "inside", "between")
    require(not cfg.optim.shard, "optim.shard=true is compared with optim.shard=false here: leave it out")
    return args, cfg


def with_clip_length(args: Namespace, *above_zero: str) -> RLTrainConfig:
    """Compose the config, and set --seconds from it unless it is given.

    Raises ConfigError if --seconds or another of these flags is not a finite number above 0.
    """
    args.overrides = [word for word in args.overrides if not word.startswith(WITHOUT_MEMORY)]
    cfg = compose_config(args.config_name, args.overrides, RLTrainConfig)
    if args.seconds is None:
        args.seconds = cfg.datasets.max_seconds
    for flag in ("seconds", *above_zero):
        value = getattr(args, flag)
        require(0 < value < inf, f"--{flag}={value:g} is not allowed; allowed: a number above 0")
    return cfg


def evaluate(argv: list[str]) -> TrainConfig:
    """Load the config of evaluate; raise FileNotFoundError if a file is missing that it names."""
    return load_config(
        argv,
        default="F5TTS_Mini",
        schema=TrainConfig,
        command="evaluate",
        more_checks=lambda cfg: [lambda: require_task(cfg.eval), *checkpoint_checks(cfg.eval), *list_checks(cfg.eval)],
    )


def best_of(argv: list[str]) -> RLTrainConfig:
    """Load the config of best-of; raise FileNotFoundError if a file is missing that it names."""
    return load_config(
        argv,
        default="F5TTS_Mini_RL",
        schema=RLTrainConfig,
        command="best-of",
        more_checks=lambda cfg: [lambda: require_best_of(cfg.eval), *checkpoint_checks(cfg.eval)],
    )


def require_task(settings: EvalConfig) -> None:
    """Raise ConfigError unless an evaluation has a folder for its results, and either a checkpoint or clips."""
    if (settings.ckpt is None) == (settings.wavs is None) or settings.out is None:
        raise ConfigError(
            "evaluation needs eval.out=FOLDER (for its results), and eval.ckpt=FILE (a checkpoint), or else "
            "eval.wavs=FOLDER (clips <id>.wav of another system)"
        )


def require_best_of(settings: EvalConfig) -> None:
    """Raise ConfigError unless best-of-N has a checkpoint, a folder for its results, and one guidance strength."""
    if settings.ckpt is None or settings.out is None:
        raise ConfigError("best of N needs eval.ckpt=FILE (a checkpoint) and eval.out=FOLDER (for its results)")
    if len(settings.cfg_strengths) != 1:
        raise ConfigError(f"eval.cfg_strengths={settings.cfg_strengths}: name one, e.g. that of the model's evaluation")


def checkpoint_checks(settings: EvalConfig) -> list[Callable[[], None]]:
    """List the check of the checkpoint of an evaluation, if it names one."""
    return [] if settings.ckpt is None else [lambda: require_checkpoint(str(settings.ckpt))]


def require_checkpoint(name: str) -> None:
    """Raise FileNotFoundError unless the checkpoint of an evaluation is there."""
    if not Path(name).is_file():
        raise FileNotFoundError(f"no checkpoint at {name}, which eval.ckpt names")


def list_checks(settings: EvalConfig) -> list[Callable[[], None]]:
    """List the checks of the lists of an evaluation: those that are named, or else both of eval.items_dir."""
    named = [(key, getattr(settings, key)) for key in ("list", "dev_list", "prompts")]
    files = [(key, name) for key, name in named if name is not None and Path(name).suffix]  # others may be shipped ones
    checks = [partial(require_list, key, name) for key, name in files]
    return [*checks, lambda: require_items(settings.items_dir)] if settings.list is None else checks


def require_list(key: str, name: str) -> None:
    """Raise FileNotFoundError unless there is the list that a key of the section eval names."""
    if not Path(name).exists():
        raise FileNotFoundError(f"no file at {name}, which eval.{key} names")


def require_items(folder: str | None) -> None:
    """Raise FileNotFoundError unless eval.items_dir has both of its lists."""
    lists = ("dev.jsonl", "test.jsonl")
    missing = [name for name in lists if folder is not None and not Path(folder, name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"no {' and no '.join(missing)} in eval.items_dir={folder}, seen from here: guidance is chosen on "
            "dev.jsonl, and test.jsonl is measured; a single list is named by eval.list=FILE instead"
        )


def env(argv: list[str]) -> Namespace:
    """Read the arguments of env: none."""
    return new_parser("env").parse_args(argv)
