"""A run's configuration: composed from `configs/*.yaml` and a command line; values live in the YAML alone."""

from __future__ import annotations

import argparse
import difflib
import re
from dataclasses import is_dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from f5_tts.config.checks import check, require
from f5_tts.config.schema import ConfigError, RLTrainConfig, SynthesisConfig, TrainConfig, describe_type

CONFIG_DIR = Path(__file__).parents[1] / "configs"
MAX_CONFIG_CHARS = 100_000  # characters
MAX_YAML_ALIASES = 20  # each may stand for all those before it
YAML_ERRORS = (
    yaml.YAMLError,
    OmegaConfBaseException,
    ValueError,
    OSError,
    LookupError,
    AttributeError,
    TypeError,
    RecursionError,
)  # what yaml and OmegaConf make of what is no config
Node = Any  # a config that OmegaConf holds; its schema checks it while it runs
TrainConfigT = TypeVar("TrainConfigT", bound=TrainConfig)
Config = TypeVar("Config", TrainConfig, RLTrainConfig, SynthesisConfig)


# --- loading ---


def load_config(argv: list[str], *, default: str, schema: type[TrainConfigT]) -> TrainConfigT:
    """The run that a command line asks for: `-cn NAME` picks the config, `key=value` changes it.

    Raises ConfigError for anything that cannot be run as written; `-h` prints usage and exits.
    """
    args = command_line(default).parse_intermixed_args(argv)
    return compose_config(args.config_name, args.overrides, schema)


def compose_config(name: str, overrides: list[str], schema: type[TrainConfigT]) -> TrainConfigT:
    """The config `name` with `overrides` applied, typed as `schema`; every key and value checked."""
    name = name.removesuffix(".yaml")
    return finalize(read_config(name, schema), overrides, name, schema)


def compose_synthesis_config(name: str, overrides: list[str], file: str | None = None) -> SynthesisConfig:
    """What the config `name` says of speaking, or a YAML `file` instead, with `overrides` applied; checked.

    A file may be one of upstream F5-TTS: `model.arch.attn_backend` (how attention is computed, not what) and all
    sections but `model` and `infer` are for training and are not read. Keys that it leaves out are as in the configs
    that its `defaults` name, else as in _base.yaml.
    """
    name = name.removesuffix(".yaml")
    cfg = OmegaConf.structured(SynthesisConfig)
    if file is None:
        require_config(name)
        cfg = OmegaConf.merge(cfg, synthesis_sections(read_yaml(name)))
    else:
        values = read_file(Path(file))
        cfg = OmegaConf.merge(cfg, *[synthesis_sections(base) for base in base_configs(values)])
        cfg = merge_file(cfg, values, file)
    return finalize(cfg, overrides, file or name, SynthesisConfig)


def with_overrides(cfg: SynthesisConfig, overrides: list[str]) -> SynthesisConfig:
    """A config with `overrides` applied; the one given stays as it is."""
    return finalize(OmegaConf.structured(cfg), overrides, cfg.model.name, SynthesisConfig)


def finalize(cfg: Node, overrides: list[str], name: str, schema: type[Config]) -> Config:
    """The typed object of a config, overrides applied, every key and value checked."""
    for override in overrides:
        apply_override(cfg, override, name, schema)
    config = to_object(cfg)
    check(config)
    return config


def schema_of(name: str) -> type[TrainConfig]:
    """RLRunConfig for a config of stage 2, RunConfig for the others."""
    name = name.removesuffix(".yaml")
    require_config(name)
    return RLTrainConfig if "rl" in read_yaml(name) else TrainConfig


def config_names() -> list[str]:
    """The names that `-cn` takes."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml") if not path.stem.startswith("_"))


class CommandLine(argparse.ArgumentParser):
    """argparse, with its errors as ConfigError."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; usage: {self.usage}; -h says more")


def command_line(default: str) -> CommandLine:
    keys = f"Every key with its meaning, unit and range: _base.yaml and _rl.yaml in {CONFIG_DIR}"
    parser = CommandLine(usage="[-cn NAME] [key=value ...]", epilog=keys, allow_abbrev=False)
    parser.add_argument(
        "-cn", "--config-name", metavar="NAME", default=default, help=f"{', '.join(config_names())}; default: {default}"
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="e.g. optim.epochs=2")
    return parser


def read_config(name: str, schema: type[TrainConfig]) -> Node:
    """The YAML of `name` merged into the types of `schema`; the values are the file's own."""
    require_config(name)
    values = read_yaml(name)
    sections = set(get_type_hints(schema))
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
    if name not in config_names():
        hint = nearest(name, config_names(), cutoff=0.6)
        raise ConfigError(f"no config is named {name}{hint}; known: {', '.join(config_names())}")


@cache
def read_yaml(name: str) -> Node:
    """The values of a config and of those it builds on; shared, so not to be changed."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        values = compose(name)
    OmegaConf.set_struct(values, False)  # the schema decides which keys exist; a provider's config is open
    return values


def read_file(path: Path) -> dict[str, Any]:
    """A config file outside the package; ConfigError where it is none, or has a section that no config has."""
    if not path.is_file():
        raise ConfigError(f"no config file at {path}")
    try:
        text = path.read_text(encoding="utf-8")
        require(len(text) < MAX_CONFIG_CHARS, f"{path} has {len(text)} characters, which no config has")
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
    known = [*get_type_hints(RLTrainConfig), "hydra", "defaults"]
    unexpected = [key for key in sections if key not in known]
    require(not unexpected, f"unknown section {unexpected} in {path}; known: {', '.join(known)}")
    return sections


def base_configs(values: dict[str, Any]) -> list[Node]:
    """The configs that a config file builds on."""
    names = values.get("defaults", ["_base"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"defaults: {names} is not a list of config names, such as [F5TTS_v1_Base, _self_]")
    for name in names:
        if not name.startswith("_"):
            require_config(name)
    return [read_yaml(name) for name in names if name == "_base" or not name.startswith("_")]


def synthesis_sections(values: Node) -> dict[str, Node]:
    return {section: values[section] for section in get_type_hints(SynthesisConfig) if section in values}


def merge_file(cfg: Node, values: dict[str, Any], file: str) -> Node:
    """`cfg` with what a config file says of speaking."""
    arch = values["model"].get("arch")
    if isinstance(arch, dict):
        arch.pop("attn_backend", None)
    try:
        OmegaConf.merge(OmegaConf.structured(SynthesisConfig), synthesis_sections(values))  # names the key of any error
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
    """Set one `key=value` in place; hydra's `+key` and `++key` mean the same, since every key already exists."""
    if override.startswith("~"):
        raise ConfigError(f"{override} would remove a key, but every key needs a value; to change it write key=value")
    key, has_equals, text = override.lstrip("+").partition("=")
    if not has_equals:
        raise ConfigError(f"'{override}' has no '='; write key=value, e.g. optim.epochs=2")
    for path in (parent_key(key), key):
        create_optional_section(cfg, path, schema)
    if not has_key(cfg, key, schema):
        raise unknown_key(cfg, key, name)
    try:
        OmegaConf.update(cfg, key, parse_value(key, text))
    except ConfigKeyError as error:
        raise unknown_key(cfg, key_in(error, key), name) from error
    except ValidationError as error:
        key_path = re.sub(r"\.\d+$", "", key_in(error, key))  # the list, not its entry
        raise ConfigError(
            f"{key}={text} does not fit: {key_path} is {describe_type(type_at(schema, key_path))}"
        ) from error


def parse_value(key: str, text: str) -> Any:
    """The value that `key=text` means in hydra's grammar."""
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException as error:
        raise ConfigError(f"could not read {key}={text}; put the value into quotes: '{key}=\"{text}\"'") from error
    if parsed.is_sweep_override():
        raise ConfigError(f"{key}={text} names several values and a run takes one; a list is written {key}=[{text}]")
    return parsed.value()


def to_object(cfg: Node) -> Any:
    """The dataclasses, interpolations resolved."""
    try:
        return OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        key, missing = key_in(error, ""), isinstance(error, MissingMandatoryValue)
        raise ConfigError(f"{key} {'has no value' if missing else 'cannot be resolved'}; write {key}=...") from error


def key_in(error: OmegaConfBaseException, key: str) -> str:
    """The key an error is about, inside the value given for `key`; list entries as in an override."""
    key_path = re.sub(r"\[(\d+)\]", r".\1", error.full_key or "")
    return key_path if key_path.startswith(key) else f"{key}.{key_path}"


# --- keys ---


def has_key(cfg: Node, key: str, schema: type[Config]) -> bool:
    """Whether the config has this key, or a section there that takes any (a provider's own `config`)."""
    paths, parent = key_paths(cfg), parent_key(key)
    return key in paths or (parent in paths and get_origin(type_at(schema, parent)) is dict)


def create_optional_section(cfg: Node, key: str, schema: type[Config]) -> None:
    """A section that is null, such as a reward's `worker`, gets its defaults, so that its keys can be set."""
    if key in key_paths(cfg) and OmegaConf.select(cfg, key) is None:
        section = optional_section(type_at(schema, key))
        if section is not None:
            OmegaConf.update(cfg, key, section(), merge=False)


def optional_section(hint: Any) -> type | None:
    """The section that a key with this annotation holds unless it is null; None where it holds anything else."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return next(filter(is_dataclass, options), None)


def key_paths(cfg: Any, prefix: str = "") -> list[str]:
    """Every section and every key as a dotted path; list entries by their index."""
    node = OmegaConf.to_container(cfg) if OmegaConf.is_config(cfg) else cfg
    if isinstance(node, list) and any(isinstance(item, dict) for item in node):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return []
    paths = []
    for name, value in node.items():
        paths += [f"{prefix}{name}", *key_paths(value, f"{prefix}{name}.")]
    return paths


def unknown_key(cfg: Node, key: str, name: str) -> ConfigError:
    """The error for a key that does not exist, with the most similar one, else its neighbours."""
    paths = key_paths(cfg)
    parents = {path for path in map(parent_key, paths) if key.startswith(f"{path}.")}
    hint = nearest(key, [path for path in paths if path not in parents], cutoff=0.75)
    if not hint:
        section = max(parents, key=len, default="")
        keys = [path for path in paths if parent_key(path) == section]
        hint = f"; known there: {', '.join(keys)}"
    return ConfigError(f"unknown key {key} in {name}{hint}")


def parent_key(key: str) -> str:
    return key.rpartition(".")[0]


def nearest(word: str, known: list[str], cutoff: float) -> str:
    """': did you mean X?' for the most similar known word, or nothing."""
    matches = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f": did you mean {matches[0]}?" if matches else ""


def type_at(hint: Any, key: str) -> Any:
    """The annotation of a key, reached from the schema; Any below a section that takes anything."""
    for key_part in key.split("."):
        if get_origin(hint) is list:
            hint = get_args(hint)[0]
            if key_part.isdigit():
                continue
        hint = optional_section(hint) or hint
        hint = get_type_hints(hint, include_extras=True)[key_part] if is_dataclass(hint) else Any
    return hint
