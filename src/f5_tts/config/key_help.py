"""Help on config keys, from the comments beside them in `_base.yaml` and `_rl.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from textwrap import fill

from omegaconf import OmegaConf

from f5_tts.config.checks import as_override
from f5_tts.config.keys import nearest
from f5_tts.config.schema import ConfigError
from f5_tts.config.yaml_files import CONFIG_DIR, read_yaml

WIDTH = 100  # characters
KEY = re.compile(r"(?P<indent> *)(?P<name>\w+):(?P<value>.*?)(?: +# (?P<comment>.*))?$")


@cache
def key_comments() -> dict[str, str]:
    """Return the comment of each key and section, by its path; an empty one where there is none."""
    return {key: text for name in ("_base", "_rl") for key, text in comments_in(f"{name}.yaml")}


def comments_in(file: str) -> Iterator[tuple[str, str]]:
    """Yield path and comment of each key of a config file; the comment is beside the key, or above it."""
    parents, above = [], []
    for line in (CONFIG_DIR / file).read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.lstrip().removeprefix("# "))
        elif found := KEY.match(line):
            parents = [*parents[: len(found["indent"]) // 2], found["name"]]
            comment = found["comment"] or ""
            yield ".".join(parents), " ".join(above) if above and found["indent"] else comment
            above = []


def list_sections(name: str) -> str:
    """List the keys of a config by section, those of a section within a section as one."""
    lines = [f"{section:9} {', '.join(names(section))}" for section in read_yaml(name)]
    return "\n".join(fill(line, WIDTH, initial_indent="  ", subsequent_indent=" " * 12) for line in lines)


def names(section: str) -> list[str]:
    """List the names of the keys of a section."""
    return list(dict.fromkeys(key.split(".")[1] for key in key_comments() if key.startswith(f"{section}.")))


def explain_section(section: str, name: str) -> str:
    """Explain the keys of a section, or one key, with their values in a config.

    Raises:
        ConfigError: the config has no such section or key.
    """
    values, keys = read_yaml(name), [key for key in key_comments() if f"{key}.".startswith(f"{section}.")]
    if not keys or section.partition(".")[0] not in values:
        known = [key for key in key_comments() if key.partition(".")[0] in values]
        raise ConfigError(f"{name} has no section or key {section}{nearest(section, known, cutoff=0.6)}")
    explained = (explain_key(key, OmegaConf.select(values, key)) for key in keys)
    return "\n".join(text for text in explained if text)


def explain_key(key: str, value: object) -> str:
    """Explain a key and its value; of a section its comment alone, an empty text without one."""
    plain, comment = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value, key_comments()[key]
    if isinstance(plain, dict) and not comment:
        return ""
    shown = f"{key}.*" if isinstance(plain, dict) else f"{key}={as_override(plain)}"
    return shown + (comment and "\n" + fill(comment, WIDTH, initial_indent="    ", subsequent_indent="    "))
