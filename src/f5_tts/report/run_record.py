"""Record of a run, `run.yaml` in its folder: configuration, data set and versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from f5_tts import __version__
from f5_tts.config.checks import typed_values
from f5_tts.config.schema import TrainConfig
from f5_tts.files import YAML_ERRORS, write_atomically

FILE = "run.yaml"
LIBRARIES = ("torch", "accelerate", "datasets", "numpy", "ema-pytorch", "soundfile")
HIDDEN = ".worker"  # part of keys that name other machines and their tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What a run was started with."""

    config: Mapping[str, Any] = field(default_factory=dict)  # by key
    data_set: str = ""  # size and checksum
    versions: Mapping[str, str] = field(default_factory=dict)


def write_record(folder: Path, cfg: TrainConfig, data_set: str) -> None:
    """Write run.yaml; keys of reward servers are left out."""
    config = {key: value for key, value, _ in typed_values(cfg) if HIDDEN not in key}
    content = {"config": config, "data_set": data_set, "versions": current_versions()}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_atomically(folder / FILE, lambda part: part.write_text(text, encoding="utf-8"))


def current_versions() -> dict[str, str]:
    """Return the versions of this package, of Python, and of the libraries that results depend on."""
    found = {"f5-tts-rl": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_record(folder: Path) -> RunRecord:
    """Read run.yaml; an empty record where there is none, because earlier versions wrote none.

    Raises ValueError if the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return RunRecord()
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        config, versions = dict(found["config"]), dict(found["versions"])
        return RunRecord(config=config, data_set=str(found["data_set"]), versions=versions)
    except YAML_ERRORS as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged ({reason}): remove it, and make the report again") from error
