"""Folders that can be written, files that are written whole or not at all, and YAML files of models."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)  # that yaml raises


def ensure_writable_dir(path: Path, key: str) -> None:
    """Make a folder and see that it can be written; raises OSError with what to do. `key` is what names it."""
    probe = path / ".writable"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to {key}={path} ({error}): choose a folder of yours") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file under another name, then put it in place; others may read it as any new file."""
    tmp_path = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp_path.touch()
        mode = tmp_path.stat().st_mode  # some libraries write files that nobody else may read
        write(tmp_path)
        tmp_path.chmod(mode)
        with tmp_path.open("rb") as stream:
            os.fsync(stream.fileno())
        tmp_path.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        with suppress(OSError):
            tmp_path.unlink()
        raise OSError(
            f"cannot write {path} ({error}): the disk is full, or {path.parent} is not yours to write in"
        ) from error


def read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except YAML_ERRORS as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}): fetch it again") from error


def get_nested(config: Any, key: str) -> Any:
    """The value of a dotted key, None where there is none."""
    for key_part in key.split("."):
        config = config.get(key_part) if isinstance(config, dict) else None
    return config
