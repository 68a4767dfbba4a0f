"""Folders that can be written, files that are written whole or not at all, and YAML files of models."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)  # errors of yaml


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
