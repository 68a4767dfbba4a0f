"""Config files: those of `configs/`, merged with what they build on, and files of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from f5_tts.config.checks import require
from f5_tts.config.keys import Node, nearest
from f5_tts.config.schema import ConfigError, RLTrainConfig, field_hints

CONFIG_DIR = Path(__file__).parents[1] / "configs"
WITHOUT_TENSORS = {"text_mask_padding", "pe_attn_head"}  # keys of model.arch that change what the same tensors compute
MAX_CONFIG_CHARS = 100_000  # characters
MAX_YAML_ALIASES = 20  # nested aliases expand exponentially
YAML_ERRORS = (
    yaml.YAMLError,
    OmegaConfBaseException,
    ValueError,
    OSError,
    LookupError,
    AttributeError,
    TypeError,
    RecursionError,
)  # errors of yaml and OmegaConf for a file that is no config


def config_names() -> list[str]:
    """List the names that `-cn` accepts."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml") if not path.stem.startswith("_"))


def require_config(name: str) -> None:
    """Raise ConfigError with a suggestion unless a config has this name."""
    if name not in config_names():
        hint = nearest(name, config_names(), cutoff=0.6)
        raise ConfigError(f"no config is named {name}{hint}; known: {', '.join(config_names())}")


@cache
def read_yaml(name: str) -> Node:
    """Read the values of a config and of those it builds on; the result is cached and must not be changed."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        values = compose(name)
    OmegaConf.set_struct(values, False)  # the schema decides which keys exist; a provider's config accepts any
    return values


def read_file(path: Path) -> dict[str, Any]:
    """Read a config file outside the package; raise ConfigError if it is none or has an unknown section."""
    if not path.is_file():
        raise ConfigError(f"no config file at {path}")
    try:
        text = path.read_text(encoding="utf-8")
        require(len(text) < MAX_CONFIG_CHARS, f"{path} has {len(text)} characters, more than a config may have")
        num = sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))
        require(num <= MAX_YAML_ALIASES, f"{path} has {num} aliases (*name); write out what they stand for")
        values = OmegaConf.to_container(OmegaConf.load(StringIO(text)))
    except ConfigError:
        raise
    except YAML_ERRORS as error:
        raise ConfigError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise ConfigError(f"{path} has no section model; write one like that of {CONFIG_DIR / 'F5TTS_v1_Base.yaml'}")
    sections = {str(key): value for key, value in values.items()}
    known = [*field_hints(RLTrainConfig), "hydra", "defaults"]
    unexpected = [key for key in sections if key not in known]
    require(not unexpected, f"unknown section {unexpected} in {path}; known: {', '.join(known)}")
    return sections


def look_alikes(model: Mapping[str, Any]) -> list[str]:
    """Return the configs whose networks have the same tensors as this section `model`, and compute something else."""
    names = []
    for name in config_names():
        other = yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text(encoding="utf-8"))["model"]
        others = {key: value for key, value in other["arch"].items() if key in model["arch"]}
        differing = {key for key, value in others.items() if value != model["arch"][key]}
        if differing and differing <= WITHOUT_TENSORS and other["backbone"] == model["backbone"]:
            names.append(name)
    return names
