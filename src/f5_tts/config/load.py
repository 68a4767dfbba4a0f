"""Composition of configurations from `configs/*.yaml` and overrides; values are defined in the YAML files alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import is_dataclass
from functools import cache
from io import StringIO
from typing import Any, TypeVar, get_args

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from f5_tts.config.checks import call_all, check, check_values, disagreements, list_problems, raise_together
from f5_tts.config.keys import Node, type_at, unknown_key
from f5_tts.config.overrides import apply_override, key_in, say
from f5_tts.config.schema import (
    PATH,
    ConfigError,
    RLTrainConfig,
    SynthesisConfig,
    TrainConfig,
    describe_type,
    field_hints,
)
from f5_tts.config.yaml_files import YAML_ERRORS, config_names, read_file, read_yaml, require_config
from f5_tts.files import expand_path, expand_texts, user_path

DOTTED = re.compile(r"\b[a-z]{2}\w*(?:\.\w+)+")  # a key in a sentence
OLD_NAMES = {"F5-TTS": "F5TTS_Base", "E2-TTS": "E2TTS_Base"}  # names of models in old programs
TrainConfigT = TypeVar("TrainConfigT", bound=TrainConfig)
MoreChecks = Callable[[Any], Sequence[Callable[[], object]]]
Config = TypeVar("Config", TrainConfig, RLTrainConfig, SynthesisConfig)


# --- loading ---


def no_checks(cfg: TrainConfig) -> Sequence[Callable[[], object]]:
    """Return no checks."""
    return ()


def compose_config(
    name: str, overrides: list[str], schema: type[TrainConfigT], more_checks: MoreChecks = no_checks
) -> TrainConfigT:
    """Compose the config `name` with `overrides`, typed as `schema`, and check every key and value.

    `more_checks` lists functions that raise an error where something outside of the config is wrong, such as files.

    Raises:
        ConfigError: the config or a key does not exist, or a value is invalid.
    """
    name = name.removesuffix(".yaml")
    return finalize(read_config(name, schema), overrides, name, schema, more_checks)


def compose_synthesis_config(name: str, overrides: list[str], file: str | None = None) -> SynthesisConfig:
    """Compose the synthesis sections of the config `name`, or of a YAML `file`, with `overrides`, and check them.

    The file may be a config of upstream F5-TTS. Of its sections only `model` and `infer` are read. Missing
    keys come from the configs that its `defaults` list names, else from _base.yaml.

    Raises:
        ConfigError: the config, the file or a key does not exist, or a value is invalid.
    """
    name = OLD_NAMES.get(name, name.removesuffix(".yaml"))
    cfg = OmegaConf.structured(SynthesisConfig)
    if file is None:
        require_config(name)
        cfg = OmegaConf.merge(cfg, synthesis_sections(read_yaml(name)))
    else:
        values = read_file(user_path(file))
        cfg = OmegaConf.merge(cfg, *[synthesis_sections(base) for base in base_configs(values)])
        cfg = merge_file(cfg, values, file)
    return finalize(cfg, overrides, file or name, SynthesisConfig)


def with_overrides(cfg: SynthesisConfig, overrides: list[str]) -> SynthesisConfig:
    """Return a config with `overrides` applied; the given one is not changed."""
    return finalize(OmegaConf.structured(cfg), overrides, cfg.model.name, SynthesisConfig)


def finalize(
    base: Node, overrides: list[str], name: str, schema: type[Config], more_checks: MoreChecks = no_checks
) -> Config:
    """Apply overrides to a copy of a config, convert it to typed objects, and check every key and value.

    Raises:
        ConfigError: the message has all problems, each with what to do.
    """
    cfg = deepcopy(base)
    try:
        for override in overrides:
            apply_override(cfg, override, name, schema)
        follow_group_size(cfg, overrides)
        config = to_typed(cfg)
        check(config)
    except ConfigError as error:
        with redirect_stderr(StringIO()):  # what was translated or followed has been said
            problems = find_problems(base, overrides, name, schema, more_checks)
        raise ConfigError(list_problems(problems or [str(error)])) from error
    raise_together(*more_checks(config))
    return config


def to_typed(cfg: Node) -> Any:
    """Convert a config to its dataclasses, with paths expanded."""
    config = to_object(cfg)
    expand_paths(config)
    return config


def find_problems(
    base: Node, overrides: list[str], name: str, schema: type[Config], more_checks: MoreChecks
) -> list[str]:
    """Find what is wrong with each override by itself, and with the others together.

    What mentions a key of an earlier problem is left out: it may be gone with that one. Nothing is returned where the
    base itself has a wrong value, or none for a key.
    """
    cfg, problems = deepcopy(base), []
    try:
        check_values(to_typed(cfg))
    except ConfigError:
        return []
    for override in overrides:
        changed = deepcopy(cfg)
        try:
            apply_override(changed, override, name, schema)
            check_values(to_typed(changed))
        except ConfigError as error:
            problems.append(str(error))
        else:
            cfg = changed
    follow_group_size(cfg, overrides)
    mentioned = {key for problem in problems for key in DOTTED.findall(problem)}
    config = to_typed(cfg)
    others = [*disagreements(config), *map(str, call_all(more_checks(config))[1])]
    return problems + [text for text in others if mentioned.isdisjoint(DOTTED.findall(text))]


def follow_group_size(cfg: Node, overrides: list[str]) -> None:
    """Lower rl.mini_repeat_count to a divisor of rl.group_size, unless it is given itself, and say so."""
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    size, count = OmegaConf.select(cfg, "rl.group_size"), OmegaConf.select(cfg, "rl.mini_repeat_count")
    if not size or size % count == 0 or "rl.mini_repeat_count" in given:
        return
    cfg.rl.mini_repeat_count = max(divisor for divisor in range(1, count + 1) if size % divisor == 0)
    say(f"rl.mini_repeat_count={cfg.rl.mini_repeat_count} instead of {count}: rl.group_size={size} is a multiple of it")


def expand_paths(section: Any) -> None:
    """Expand ~ and variables in all paths of a section in place, and in the open sections of rewards."""
    for name, hint in field_hints(type(section)).items():
        value = getattr(section, name)
        for item in value if isinstance(value, list) else [value]:
            if is_dataclass(item):
                expand_paths(item)
        if isinstance(value, dict):
            setattr(section, name, expand_texts(value))
        elif isinstance(value, str) and any(PATH in getattr(h, "__metadata__", ()) for h in (hint, *get_args(hint))):
            setattr(section, name, expand_path(value))


def schema_of(name: str) -> type[TrainConfig]:
    """Return RLTrainConfig for a config of stage 2, TrainConfig for the others."""
    name = name.removesuffix(".yaml")
    require_config(name)
    return RLTrainConfig if "rl" in read_yaml(name) else TrainConfig


@cache
def read_config(name: str, schema: type[TrainConfig]) -> Node:
    """Merge the YAML of `name` into the types of `schema`; all values are the file's own.

    The result is cached and must not be changed.

    Raises:
        ConfigError: there is no such config, or it has other sections than `schema`.
    """
    require_config(name)
    values = read_yaml(name)
    sections = set(field_hints(schema))
    if set(values) != sections:
        matching = [other for other in config_names() if set(read_yaml(other)) == sections]
        unexpected = sorted(str(key) for key in sections ^ set(values))
        problem = "has a section" if unexpected[0] in values else "has no section"
        raise ConfigError(
            f"config {name} {problem} {', '.join(unexpected)} and is not for this command; it takes "
            f"{' or '.join(matching)}"
        )
    return OmegaConf.merge(OmegaConf.structured(schema), values)


def base_configs(values: dict[str, Any]) -> list[Node]:
    """Read the configs that a config file's `defaults` list names."""
    names = values.get("defaults", ["_base"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"defaults: {names} is not a list of config names, such as [F5TTS_v1_Base, _self_]")
    for name in names:
        if not name.startswith("_"):
            require_config(name)
    return [read_yaml(name) for name in names if name == "_base" or not name.startswith("_")]


def synthesis_sections(values: Node) -> dict[str, Node]:
    """Return the sections that synthesis needs."""
    return {section: values[section] for section in field_hints(SynthesisConfig) if section in values}


def merge_file(cfg: Node, values: dict[str, Any], file: str) -> Node:
    """Merge the synthesis sections of a config file into `cfg`; raise ConfigError that names the wrong key."""
    try:
        # merging alone first: its errors name the key
        OmegaConf.merge(OmegaConf.structured(SynthesisConfig), synthesis_sections(values))
        return OmegaConf.merge(cfg, synthesis_sections(values))
    except ConfigKeyError as error:
        raise unknown_key(cfg, key_in(error, ""), file) from error
    except ValidationError as error:
        key = key_in(error, "")
        raise ConfigError(
            f"{key} in {file} does not fit: it is {describe_type(type_at(SynthesisConfig, key))}"
        ) from error
    except YAML_ERRORS as error:
        raise ConfigError(f"{file} cannot be read: {str(error).partition(chr(10))[0]}") from error


def to_object(cfg: Node) -> Any:
    """Convert a config to its dataclasses, with interpolations resolved."""
    try:
        return OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        key, missing = key_in(error, ""), isinstance(error, MissingMandatoryValue)
        raise ConfigError(f"{key} {'has no value' if missing else 'cannot be resolved'}; write {key}=...") from error
