"""Install blocks of the guide: the extras exist, are installed here, and provide what the other blocks import."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests import guide

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def brought_by(extra: str) -> list[Requirement]:
    """List the requirements that an extra installs, with nested extras resolved and the base dependencies included."""
    result = [Requirement(line) for line in [*PROJECT["dependencies"], *EXTRAS[extra]]]
    inner = [name for each in result if each.name == PROJECT["name"] for name in sorted(each.extras)]
    own = [each for each in result if each.name != PROJECT["name"]]
    return own + [each for name in inner for each in brought_by(name)]


RL = brought_by("rl")
NAMES = {canonicalize_name(each.name) for each in RL}


def installed_words() -> list[str]:
    """List the guide's arguments to pip install, in order."""
    lines = "".join(guide.installs()).splitlines()
    return [word for line in lines for word in shlex.split(line.partition(" pip install ")[2]) if word != "-e"]


def imports_of_blocks() -> set[str]:
    """Collect the modules that Python code in the guide's blocks imports, without the standard library."""
    programs = [found for block in guide.blocks() for found in re.findall(r"<<'PY'\n(.*?)\nPY", block, re.DOTALL)]
    nodes = [node for program in programs for node in ast.walk(ast.parse(program))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


def test_the_guide_installs_the_extra_rl_before_anything_else_and_these_packages_by_name() -> None:
    extra, *others = installed_words()
    assert extra == ".[rl]"
    assert [word.partition(" ")[0] for word in others] == ["wespeaker", "funasr", "huggingface_hub"]


@pytest.mark.parametrize("extra", ["rl", "reward_funasr"])
def test_what_an_extra_of_the_guide_requires_is_here_in_a_version_that_it_allows(extra: str) -> None:
    expected = [each for each in brought_by(extra) if each.marker is None or each.marker.evaluate()]
    assert [str(each) for each in expected if not each.specifier.contains(version(each.name), prereleases=True)] == []


def test_every_package_that_the_guide_names_comes_with_the_extra_but_wespeaker() -> None:
    named = {canonicalize_name(word.partition(" ")[0]) for word in installed_words()[1:]}
    assert named - NAMES == {"wespeaker"}


def test_nothing_of_ours_needs_wespeaker_or_what_it_brings() -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py")]
    unneeded = r"^\s*(?:from|import) (?:wespeaker|s3prl|whisper|silero_vad|torchaudio)\b"
    assert sources and not any(re.search(unneeded, source, re.MULTILINE) for source in sources)
    assert not {"wespeaker", "wespeaker-unofficial", "s3prl", "torchaudio"} & NAMES


def test_what_the_guides_python_imports_comes_with_the_extra() -> None:
    imported = imports_of_blocks()
    assert imported == {"datasets", "soundfile", "cached_path"}
    assert {canonicalize_name(packages_distributions()[name][0]) for name in imported} <= NAMES


def test_the_extra_brings_a_decoder_for_audio_columns_and_the_command_wandb() -> None:
    assert "audio" in next(each.extras for each in RL if each.name == "datasets" and each.extras)
    assert find_spec("librosa") is not None  # datasets 3.6 decodes audio with librosa and soundfile
    assert "wandb" in NAMES and "wandb login\n" in guide.block_with("wandb sync")


def test_every_pin_is_a_version_that_our_own_lists_allow() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    pins = [(canonicalize_name(pin.name), next(iter(pin.specifier)).version) for pin in map(Requirement, lines)]
    asked = [each for extra in EXTRAS for each in brought_by(extra)]
    assert {canonicalize_name(each.name) for each in asked} <= {name for name, _ in pins}
    allowed = [(canonicalize_name(each.name), each.specifier) for each in asked]
    unfit = [(name, at) for name, at in pins for other, range in allowed if name == other and at not in range]
    assert unfit == []
