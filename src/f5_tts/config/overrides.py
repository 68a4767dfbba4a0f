"""Overrides of a configuration, `key=value`: their grammar, names of other projects, and what does not fit a key."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from f5_tts.config.foreign import ForeignName, find_foreign
from f5_tts.config.keys import (
    Node,
    create_optional_section,
    has_key,
    is_open_section,
    parent_key,
    type_at,
    unknown_key,
)
from f5_tts.config.schema import ConfigError, ProviderConfig, describe_type

OLD_KEYS = {"eval.speaker_judge": "eval.speaker"}  # keys that had another name


def apply_override(cfg: Node, override: str, name: str, schema: type) -> None:
    """Set one `key=value` in place.

    hydra's `+key` and `++key` mean the same, since every key already exists.

    Raises:
        ConfigError: the override is malformed, the key does not exist, or the value does not fit.
    """
    if override.startswith("~"):
        raise ConfigError(f"{override} would remove a key, but every key needs a value; to change it write key=value")
    key, has_equals, text = override.lstrip("+").partition("=")
    if not has_equals:
        raise ConfigError(f"'{override}' has no '='; write key=value, e.g. optim.epochs=2")
    key = OLD_KEYS.get(key, key)
    foreign = None if has_key(cfg, key) or is_open_section(cfg, parent_key(key), schema) else find_foreign(key)
    if foreign is not None:
        key, text = translate(foreign, key, text)
    for path in (parent_key(key), key):
        if has_key(cfg, path):
            create_optional_section(cfg, path, schema)
    if not has_key(cfg, key) and not is_open_section(cfg, parent_key(key), schema):
        raise unknown_key(cfg, key, name)
    try:
        value = entries_by_name(type_at(schema, key), parse_value(key, text))
        OmegaConf.update(cfg, key, value, merge=not is_dataclass(value))
    except ConfigKeyError as error:
        raise unknown_key(cfg, key_in(error, key), name) from error
    except ValidationError as error:
        key_path = re.sub(r"\.\d+$", "", key_in(error, key))  # the key of the list, without the index
        raise ConfigError(
            f"{key}={text} does not fit: {key_path} is {describe_type(type_at(schema, key_path))}"
        ) from error


def translate(foreign: ForeignName, key: str, text: str) -> tuple[str, str]:
    """Return our key and value for a name of another project, and say so; raise ConfigError where they differ."""
    if foreign.difference:
        raise ConfigError(f"{key} ({foreign.programs}) is {foreign.key} here, and not the same: {foreign.difference}")
    value = foreign.values.get(text.strip("\"'").lower(), text)
    say(f"{key}={text} ({foreign.programs}) is {foreign.key}={value} here")
    return foreign.key, value


def parse_value(key: str, text: str) -> Any:
    """Parse the value of `key=text` by hydra's grammar; raise ConfigError for a syntax error or a sweep.

    A path that begins with ~, which that grammar has no place for, is taken as it is.
    """
    if text.startswith("~"):
        return text
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException as error:
        raise ConfigError(f"could not read {key}={text}; {quoting_advice(key, text)}") from error
    if parsed.is_sweep_override():
        raise ConfigError(f"{key}={text} names several values and a run takes one; a list is written {key}=[{text}]")
    return parsed.value()


def quoting_advice(key: str, text: str) -> str:
    """Say what makes a value readable: quotes around a text, or around the texts in a list or a section."""
    if text[:1] in ("[", "{"):
        return f"close its brackets, and put its texts into quotes, as in '{key}=[\"a text\"]'"
    return f"put the value into quotes: '{key}=\"{text}\"'"


def entries_by_name(hint: Any, value: Any) -> Any:
    """Make entries of models that are given by their name alone, such as `whisper`: one, or those in a list."""
    if hint is ProviderConfig and isinstance(value, str):
        return ProviderConfig(name=value)
    if get_origin(hint) is list and isinstance(value, list):
        return [entries_by_name(get_args(hint)[0], item) for item in value]
    return value


def key_in(error: OmegaConfBaseException, key: str) -> str:
    """Return the key that an error is about, at or below `key`; list indices are written as in an override."""
    key_path = re.sub(r"\[(\d+)\]", r".\1", error.full_key or "")
    return key_path if key_path.startswith(key) else f"{key}.{key_path}"


def say(text: str) -> None:
    """Print a line to stderr; of several ranks one does."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)
