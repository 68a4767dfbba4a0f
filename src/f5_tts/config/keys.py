"""Keys of a configuration by their dotted paths: which there are, of which types, and what a mistyped one may mean."""

from __future__ import annotations

import difflib
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf

from f5_tts.config.foreign import ABSENT_KEYS, FOREIGN_NAMES, MEANT_KEYS, find_foreign
from f5_tts.config.schema import ConfigError, field_hints

Node = Any  # an OmegaConf node, which its schema checks at run time


def has_key(cfg: Node, key: str) -> bool:
    """Check whether a config has a section or key at this dotted path."""
    node: Any = cfg
    for name in key.split("."):
        held = children(node)
        if name not in held:
            return False
        node = held[name]
    return True


def is_open_section(cfg: Node, key: str, schema: type) -> bool:
    """Check whether there is a section at this path that takes any key, as a provider's own `config` does."""
    return has_key(cfg, key) and get_origin(type_at(schema, key)) is dict


def create_optional_section(cfg: Node, key: str, schema: type) -> None:
    """Replace a section that is null, such as a reward's `worker`, by its defaults, so that its keys can be set."""
    section = optional_section(type_at(schema, key)) if OmegaConf.select(cfg, key) is None else None
    if section is not None:
        OmegaConf.update(cfg, key, section(), merge=False)


def optional_section(hint: Any) -> type | None:
    """Return the section type of an annotation that allows a section or null; None for any other annotation."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return next(filter(is_dataclass, options), None)


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


def parent_key(key: str) -> str:
    """Return a dotted key without its last part."""
    return key.rpartition(".")[0]


def last_part(key: str) -> str:
    """Return the last part of a dotted key."""
    return key.rpartition(".")[2]


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


def are_alike(word: str, other: str) -> bool:
    """Check whether two names share half of their letters; whole keys of a section are alike by its name alone."""
    return difflib.SequenceMatcher(None, word, other).ratio() >= 0.5


def nearest(word: str, known: list[str], cutoff: float) -> str:
    """Return ': did you mean X?' for the most similar known word, or an empty string."""
    matches = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f": did you mean {matches[0]}?" if matches else ""
