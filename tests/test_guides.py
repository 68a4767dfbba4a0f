"""Every command that README and docs print, and every one that the quick start runs, composes."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from f5_tts.config import RLRunConfig, RunConfig, compose_run
from f5_tts.scripts import quickstart, results

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCHEMAS = {
    "f5_tts.train.train": ("F5TTS_v1_Base", RunConfig),
    "f5_tts.train.train_rl": ("F5TTS_RL", RLRunConfig),
    "f5_tts.scripts.evaluate": ("F5TTS_Mini", RunConfig),
}


def documented_commands() -> list[list[str]]:
    """Module and arguments of each `python -m f5_tts...` in a bash block."""
    blocks = [b for path in DOCUMENTS for b in re.findall(r"```bash\n(.*?)```", path.read_text("utf-8"), re.DOTALL)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line.partition(" -m ")[2], comments=True) for line in lines if " -m f5_tts" in line]


def own_commands() -> list[list[str]]:
    return [[phase.module, *phase.arguments] for phase in [*quickstart.phases(), *results.phases()]]


@pytest.mark.parametrize("words", documented_commands() + own_commands(), ids=" ".join)
def test_every_command_that_we_print_composes(words: list[str]) -> None:
    module, *arguments = words
    default, schema = SCHEMAS[module]
    name, overrides = (arguments[1], arguments[2:]) if arguments[0] == "-cn" else (default, arguments)
    run = compose_run(name, overrides, schema)
    assert isinstance(run, schema)
    if default == name or "Mini" in name:
        assert find_spec(module) is not None


def test_readme_shows_both_stages_for_the_small_model_and_for_a_gpu() -> None:
    modules = [words[0] for words in documented_commands()]
    assert modules.count("f5_tts.train.train") >= 2
    assert modules.count("f5_tts.train.train_rl") >= 2


def test_every_make_target_that_readme_names_exists() -> None:
    named = set(re.findall(r"make ([a-z][a-z-]+)", (ROOT / "README.md").read_text("utf-8")))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert named and named <= targets, named - targets


def test_every_source_file_has_its_line_in_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    files = [path for path in (ROOT / "src/f5_tts").rglob("*.py") if path.name != "__init__.py"]
    missing = [
        str(path.relative_to(ROOT)) for path in files if f"`{path.relative_to(ROOT / 'src/f5_tts')}`" not in text
    ]
    assert files and not missing
