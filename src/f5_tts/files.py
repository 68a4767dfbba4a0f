"""Folders that can be written, files that are written whole or not at all, and YAML files of models."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

HUB = "hf://"  # prefix of names of the Hugging Face hub, whose rest may be a local folder
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)  # errors of yaml


def expand_path(text: str) -> str:
    """Replace a leading `~` or `~user`, and environment variables, by what they stand for, as a shell does.

    The shell leaves them where they follow an equals sign or stand in quotes, and files are read by no shell.
    """
    prefix = HUB if text.startswith(HUB) else ""
    user = os.path.expanduser(text[len(prefix) :])  # noqa: PTH111 (Path would make ~/a of ./~/a)
    return prefix + os.path.expandvars(user)


def is_expanded(path: str) -> bool:
    """Check that a path does not begin with a user or a variable that nobody knows: no folder should be called ~."""
    return re.match(r"~|\$\{?[A-Za-z_]", path.removeprefix(HUB)) is None


def user_path(text: str) -> Path:
    """Convert an argument of a command to a path; raise ValueError for an unknown user or variable."""
    path = expand_path(text)
    if not is_expanded(path):
        raise ValueError(f"{text} names a user or a variable that there is not")
    return Path(path)


def expand_texts(value: Any) -> Any:
    """Expand the texts in a value that begin with `~/` or a variable; other texts may be no paths."""
    if isinstance(value, dict):
        return {key: expand_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expand_texts(item) for item in value]
    is_path = isinstance(value, str) and re.match(r"~(/|$)|\$", value)
    return expand_path(value) if is_path else value


def ensure_writable_dir(path: Path, key: str) -> None:
    """Make a folder and check that it is writable; `key` is the config key that names it.

    Raises:
        OSError: the folder cannot be made or written; the message says what to do.
    """
    probe = path / ".writable"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to {key}={path} ({error}): choose a folder that you can write to") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file under a temporary name, then rename it, with the permissions of any new file.

    Raises:
        OSError: the file cannot be written.
    """
    tmp_path = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp_path.touch()
        mode = tmp_path.stat().st_mode  # some libraries write files that only their owner may read
        write(tmp_path)
        tmp_path.chmod(mode)
        with tmp_path.open("rb") as stream:
            os.fsync(stream.fileno())
        tmp_path.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        with suppress(OSError):
            tmp_path.unlink()
        raise OSError(f"cannot write {path} ({error}): the disk is full, or {path.parent} is not writable") from error


def read_yaml(path: Path) -> Any:
    """Read a YAML file; raise ValueError if it cannot be parsed."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except YAML_ERRORS as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}): download it again") from error


def get_nested(config: Any, key: str) -> Any:
    """Return the value of a dotted key, or None if there is none."""
    for key_part in key.split("."):
        config = config.get(key_part) if isinstance(config, dict) else None
    return config
