"""Folders that can be written, files that are written whole or not at all, and YAML files of models."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

NO_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)  # that yaml raises


def make_folder(path: Path, key: str) -> None:
    """Make a folder and see that it can be written; raises OSError with what to do. `key` is what names it."""
    probe = path / ".writable"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to {key}={path} ({error}): choose a folder of yours") from error


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file under another name, then put it in place; others may read it as any new file."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode  # some libraries write files that nobody else may read
        write(part)
        part.chmod(mode)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        raise OSError(
            f"cannot write {path} ({error}): the disk is full, or {path.parent} is not yours to write in"
        ) from error


def read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except NO_YAML as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}): fetch it again") from error


def value_at(config: Any, key: str) -> Any:
    """The value of a dotted key, None where there is none."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config
