"""Orders: what the forms of the page ask for, as commands of f5-tts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from f5_tts.config.key_help import key_comments
from f5_tts.config.yaml_files import config_names, read_yaml
from f5_tts.data.formats import FORMATS
from f5_tts.data.tokenizer import TOKENIZERS
from f5_tts.report.run_record import read_record
from f5_tts.ui.folder import Folder

Command = list[str]
Voice = tuple[str, str, str]  # name, path of the recording, its text
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,60}")  # of data sets and runs
VOICE_NAME = re.compile(r"\w{1,30}")
VALUE = re.compile(r"[\w.,+\-\[\]]*")  # of a key
NOT_HERE = ("ckpts.save_dir", "ckpts.init_from", "datasets.name", "model.tokenizer")  # other fields set them
KEYS = {
    "train": (
        *("optim.max_updates", "optim.learning_rate", "datasets.batch_size_per_gpu", "ckpts.save_per_updates"),
        *("ckpts.log_samples", "eval.every_updates", "optim.seed"),
    ),
    "train-rl": (
        *("optim.max_updates", "optim.learning_rate", "datasets.batch_size_per_gpu", "rl.mini_repeat_count"),
        *(
            "rl.steps",
            "rl.kl_weight",
            "ckpts.save_per_updates",
            "ckpts.log_samples",
            "eval.every_updates",
            "optim.seed",
        ),
    ),
}  # fields of the form, by command


def key_fields(command: str) -> list[tuple[str, str]]:
    """Return the keys of the form for a run, each with its own comment."""
    comments = key_comments()
    return [(key, comments[key]) for key in KEYS[command]]


def configs_of(command: str) -> list[str]:
    """List the configs of a command: those of stage 2 have a section rl."""
    return [name for name in config_names() if ("rl" in read_yaml(name)) == (command == "train-rl")]


def model_flags(folder: Folder, checkpoint: str, config: str) -> Command:
    """Return the flags that name a checkpoint and its config: the one given, or what lies beside the checkpoint."""
    path = folder.existing(checkpoint)
    flags = ["-p", str(path)]
    if config:
        return [*flags, "-m", one_of(config, config_names(), "config")]
    if (path.parent / "config.yaml").is_file():
        return [*flags, "-mc", str(path.parent / "config.yaml")]
    name = str(read_record(path.parent).config.get("model.name", "")) or path.parent.name
    if name not in config_names():
        raise ValueError(f"nothing beside {checkpoint} says which config it has: choose one")
    return [*flags, "-m", name]


def one_of(value: str, allowed: Sequence[str], what: str) -> str:
    """Return a value; raise ValueError unless it is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{what} {value or '(empty)'} is not allowed; choose one of {', '.join(allowed) or 'none'}")
    return value


def speak(folder: Folder, model: Command, voices: Sequence[Voice], text: str, out: Path, name: str) -> Command:
    """Return the command that speaks a text in one or several voices, whose table it writes to `out`."""
    if not text.strip():
        raise ValueError("there is no text to speak")
    if not voices:
        raise ValueError("there is no recording of a voice: choose or record one")
    main, *others = voices
    lines = [f"ref_audio = {quoted(str(folder.existing(main[1])))}", f"ref_text = {quoted(main[2])}"]
    lines += [f"gen_text = {quoted(text)}"]
    for voice, recording, said in others:
        if not VOICE_NAME.fullmatch(voice):
            raise ValueError(f"the name of a voice has letters, digits and _ alone; {voice or '(empty)'} has not")
        lines += [f"[voices.{voice}]", f"ref_audio = {quoted(str(folder.existing(recording)))}"]
        lines += [f"ref_text = {quoted(said)}"]
    out.mkdir(parents=True, exist_ok=True)
    table = out / f"{Path(name).stem}.toml"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["infer", *model, "-c", str(table), "-o", str(out), "-w", name]


def quoted(text: str) -> str:
    """Write a text as TOML, whose strings have the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def prepare(folder: Folder, source: str, name: str, tokenizer: str, layout: str) -> list[Command]:
    """Return the commands that make a data set of a folder of recordings, and check it."""
    out = f"data/{valid_name(name)}_{one_of(tokenizer, list(TOKENIZERS), 'tokenizer')}"
    given = ["--format", one_of(layout, list(FORMATS), "format")] if layout else []
    return [["prepare", str(folder.existing(source)), str(folder.inside(out)), *given], ["check-dataset", out]]


def valid_name(name: str) -> str:
    """Return the name of a data set or a run; raise ValueError for one that is no plain name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"the name {name or '(empty)'} is not allowed: letters, digits, _, - and . are")
    return name


def run(folder: Folder, command: str, fields: Mapping[str, str]) -> Command:
    """Return the command of a fine-tune or a stage 2: config, data set, start, folder, keys, and lines of more keys."""
    command = one_of(command, list(KEYS), "command")
    name, _, tokenizer = one_of(fields.get("data_set", ""), folder.data_sets(), "data set").rpartition("_")
    words = [command, "-cn", one_of(fields.get("config", ""), configs_of(command), "config")]
    words += [
        f"datasets.name={name}",
        f"model.tokenizer={tokenizer}",
        f"ckpts.save_dir=ckpts/{valid_name(fields.get('name', ''))}",
    ]
    if fields.get("start"):
        words.append(f"ckpts.init_from={folder.existing(fields['start']).relative_to(folder.root.resolve())}")
    words += [key_value(key, fields[key].strip()) for key in KEYS[command] if fields.get(key, "").strip()]
    lines = [line.strip() for line in fields.get("more", "").splitlines() if line.strip()]
    return [*words, *(key_value(*map(str.strip, line.partition("=")[::2])) for line in lines)]


def key_value(key: str, value: str) -> str:
    """Return key=value; raise ValueError for an unknown key, or a value that could name a file or a module."""
    if key not in key_comments():
        raise ValueError(f"{key} is no key of docs/config.md; write key=value, a line for each")
    if not VALUE.fullmatch(value) or ".." in value or key.startswith(NOT_HERE):
        raise ValueError(
            f"{key}={value}: this page sets numbers and names alone; start such a run from the command line"
        )
    return f"{key}={value}"
