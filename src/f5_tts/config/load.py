"""Composition of configurations from `configs/*.yaml` and overrides; values are defined in the YAML files alone."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import is_dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from f5_tts.config.checks import call_all, check, check_values, disagreements, list_problems, raise_together, require
from f5_tts.config.foreign import ABSENT_KEYS, FOREIGN_NAMES, MEANT_KEYS, ForeignName, find_foreign
from f5_tts.config.schema import (
    PATH,
    ConfigError,
    ProviderConfig,
    RLTrainConfig,
    SynthesisConfig,
    TrainConfig,
    describe_type,
    field_hints,
)
from f5_tts.files import expand_path, expand_texts, user_path

CONFIG_DIR = Path(__file__).parents[1] / "configs"
WITHOUT_TENSORS = {"text_mask_padding", "pe_attn_head"}  # keys of model.arch that change what the same tensors compute
DOTTED = re.compile(r"\b[a-z]{2}\w*(?:\.\w+)+")  # a key in a sentence
MAX_CONFIG_CHARS = 100_000  # characters
OLD_NAMES = {"F5-TTS": "F5TTS_Base", "E2-TTS": "E2TTS_Base"}  # names of models in old programs
OLD_KEYS = {"eval.speaker_judge": "eval.speaker"}  # keys that had another name
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
Node = Any  # an OmegaConf node, which its schema checks at run time
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


def say(text: str) -> None:
    """Print a line to stderr; of several ranks one does."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)


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


def config_names() -> list[str]:
    """List the names that `-cn` accepts."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml") if not path.stem.startswith("_"))


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


def apply_override(cfg: Node, override: str, name: str, schema: type[Config]) -> None:
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
        raise ConfigError(f"could not read {key}={text}; put the value into quotes: '{key}=\"{text}\"'") from error
    if parsed.is_sweep_override():
        raise ConfigError(f"{key}={text} names several values and a run takes one; a list is written {key}=[{text}]")
    return parsed.value()


def entries_by_name(hint: Any, value: Any) -> Any:
    """Make entries of models that are given by their name alone, such as `whisper`: one, or those in a list."""
    if hint is ProviderConfig and isinstance(value, str):
        return ProviderConfig(name=value)
    if get_origin(hint) is list and isinstance(value, list):
        return [entries_by_name(get_args(hint)[0], item) for item in value]
    return value


def to_object(cfg: Node) -> Any:
    """Convert a config to its dataclasses, with interpolations resolved."""
    try:
        return OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        key, missing = key_in(error, ""), isinstance(error, MissingMandatoryValue)
        raise ConfigError(f"{key} {'has no value' if missing else 'cannot be resolved'}; write {key}=...") from error


def key_in(error: OmegaConfBaseException, key: str) -> str:
    """Return the key that an error is about, at or below `key`; list indices are written as in an override."""
    key_path = re.sub(r"\[(\d+)\]", r".\1", error.full_key or "")
    return key_path if key_path.startswith(key) else f"{key}.{key_path}"


# --- keys ---


def has_key(cfg: Node, key: str) -> bool:
    """Check whether a config has a section or key at this dotted path."""
    node: Any = cfg
    for name in key.split("."):
        held = children(node)
        if name not in held:
            return False
        node = held[name]
    return True


def is_open_section(cfg: Node, key: str, schema: type[Config]) -> bool:
    """Check whether there is a section at this path that takes any key, as a provider's own `config` does."""
    return has_key(cfg, key) and get_origin(type_at(schema, key)) is dict


def create_optional_section(cfg: Node, key: str, schema: type[Config]) -> None:
    """Replace a section that is null, such as a reward's `worker`, by its defaults, so that its keys can be set."""
    section = optional_section(type_at(schema, key)) if OmegaConf.select(cfg, key) is None else None
    if section is not None:
        OmegaConf.update(cfg, key, section(), merge=False)


def optional_section(hint: Any) -> type | None:
    """Return the section type of an annotation that allows a section or null; None for any other annotation."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return next(filter(is_dataclass, options), None)


def key_paths(node: Any, prefix: str = "") -> list[str]:
    """List every section and every key as a dotted path; list entries by their index."""
    paths = []
    for name, value in children(node).items():
        paths += [f"{prefix}{name}", *key_paths(value, f"{prefix}{name}.")]
    return paths


def children(node: Any) -> dict[str, Any]:
    """Return the values of a section by key, or those of a list of sections by index; other values have none."""
    if isinstance(node, DictConfig):
        node = dict(node.items_ex(resolve=False)) if node else {}  # a section that is null is empty
    elif isinstance(node, ListConfig):
        node = OmegaConf.to_container(node)
    if isinstance(node, list) and any(isinstance(item, dict) for item in node):
        node = dict(enumerate(node))
    return {str(name): value for name, value in node.items()} if isinstance(node, dict) else {}


def unknown_key(cfg: Node, key: str, name: str) -> ConfigError:
    """Build the error for a key that does not exist, with the most similar key or else the keys of its section.

    Of a key of the guide's fork it says what is so here.
    """
    if key in ABSENT_KEYS:
        return ConfigError(f"{key} is not a key here: {ABSENT_KEYS[key]}; leave it out")
    paths = key_paths(cfg)
    parents = {path for path in map(parent_key, paths) if key.startswith(f"{path}.")}
    known = [path for path in paths if path not in parents and are_alike(last_part(path), last_part(key))]
    hint = f": did you mean {MEANT_KEYS[key]}?" if key in MEANT_KEYS else nearest(key, known, cutoff=0.75)
    others = [last_part(other) for entry in FOREIGN_NAMES for other in entry.names]
    if not hint and (similar := difflib.get_close_matches(last_part(key), others, n=1, cutoff=0.85)):
        meant = find_foreign(similar[0])
        hint = f": did you mean {similar[0]} ({meant.programs}), which is {meant.key} here?" if meant else ""
    if not hint:
        section = max(parents, key=len, default="")
        keys = [path for path in paths if parent_key(path) == section]
        hint = f"; known there: {', '.join(keys)}"
    return ConfigError(f"unknown key {key} in {name}{hint}")


def parent_key(key: str) -> str:
    """Return a dotted key without its last part."""
    return key.rpartition(".")[0]


def last_part(key: str) -> str:
    """Return the last part of a dotted key."""
    return key.rpartition(".")[2]


def are_alike(word: str, other: str) -> bool:
    """Check whether two names share half of their letters; whole keys of a section are alike by its name alone."""
    return difflib.SequenceMatcher(None, word, other).ratio() >= 0.5


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


def nearest(word: str, known: list[str], cutoff: float) -> str:
    """Return ': did you mean X?' for the most similar known word, or an empty string."""
    matches = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f": did you mean {matches[0]}?" if matches else ""


def type_at(hint: Any, key: str) -> Any:
    """Return the annotation of a key of the schema; Any below a section that accepts any key."""
    for key_part in key.split("."):
        if get_origin(hint) is list:
            hint = get_args(hint)[0]
            if key_part.isdigit():
                continue
        hint = optional_section(hint) or hint
        hint = field_hints(hint)[key_part] if is_dataclass(hint) else Any
    return hint
