"""Every command that README and docs print, and every one that the quick start runs, composes."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from f5_tts.config import compose_run
from f5_tts.infer import cli
from f5_tts.rewards import serve
from f5_tts.scripts import quickstart, results
from f5_tts.scripts.export import command_line
from f5_tts.sections import RLRunConfig, RunConfig

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCHEMAS = {
    "f5_tts.train.train": ("F5TTS_v1_Base", RunConfig),
    "f5_tts.train.train_rl": ("F5TTS_RL", RLRunConfig),
    "f5_tts.scripts.evaluate": ("F5TTS_Mini", RunConfig),
    "f5_tts.scripts.best_of": ("F5TTS_Mini_RL", RLRunConfig),
    "f5_tts.scripts.budget": ("F5TTS_RL", RLRunConfig),
}


def documented_lines() -> list[str]:
    """Each command line in a bash block."""
    texts = [path.read_text("utf-8") for path in DOCUMENTS]
    blocks: list[str] = [block for text in texts for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]
    return "\n".join(blocks).replace("\\\n", " ").splitlines()


def documented_commands() -> list[list[str]]:
    """Module and arguments of each `python -m f5_tts...`."""
    lines = [line.partition(" -m ")[2] for line in documented_lines() if " -m f5_tts" in line]
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words[0] in SCHEMAS]


def exports() -> list[list[str]]:
    """Arguments of each export."""
    lines = [line.partition(" -m f5_tts.scripts.export ")[2] for line in documented_lines()]
    return [shlex.split(line) for line in lines if line]


def speaking_commands() -> list[list[str]]:
    """Arguments of each `f5-tts_infer-cli`."""
    name = ".venv/bin/f5-tts_infer-cli "
    return [shlex.split(line.removeprefix(name)) for line in documented_lines() if line.startswith(name)]


def own_commands() -> list[list[str]]:
    return [[phase.module, *phase.arguments] for phase in [*quickstart.phases(), *results.phases([1])]]


@pytest.mark.parametrize("words", documented_commands() + own_commands(), ids=" ".join)
def test_every_command_that_we_print_composes(words: list[str]) -> None:
    module, *arguments = words
    default, schema = SCHEMAS[module]
    name, overrides = (arguments[1], arguments[2:]) if arguments[0] == "-cn" else (default, arguments)
    run = compose_run(name, overrides, schema)
    assert isinstance(run, schema)
    if default == name or "Mini" in name:
        assert find_spec(module) is not None


def test_every_module_that_the_documents_run_is_known_here() -> None:
    modules = {line.partition(" -m ")[2].split()[0] for line in documented_lines() if " -m f5_tts" in line}
    assert modules == {*SCHEMAS, "f5_tts.scripts.export", "f5_tts.rewards.serve"}


def test_every_reward_server_that_we_print_is_understood() -> None:
    lines = [line.partition(" -m f5_tts.rewards.serve ")[2] for line in documented_lines()]
    served = [serve.command_line().parse_args(shlex.split(line)) for line in lines if line]
    assert served and all(isinstance(serve.read_config(args.config), dict) for args in served)


@pytest.mark.parametrize("arguments", exports(), ids=" ".join)
def test_every_export_that_we_print_is_understood(arguments: list[str]) -> None:
    assert command_line().parse_args(arguments).checkpoint.suffix == ".pt"


def test_readme_shows_both_stages_for_the_small_model_and_for_a_gpu() -> None:
    modules = [words[0] for words in documented_commands()]
    assert modules.count("f5_tts.train.train") >= 2
    assert modules.count("f5_tts.train.train_rl") >= 2


@pytest.mark.parametrize("words", speaking_commands(), ids=" ".join)
def test_every_speaking_command_that_we_print_is_understood_and_its_files_are_there(words: list[str]) -> None:
    given = cli.read_settings(words)
    assert cli.speech_config(given).model.name == given["model"]
    assert all((ROOT / given[key]).is_file() for key in ("ckpt_file", "ref_audio"))


def test_readme_shows_how_to_speak_and_the_command_is_installed() -> None:
    assert len(speaking_commands()) == 1
    assert f'f5-tts_infer-cli = "{cli.__name__}:{cli.main.__name__}"' in (ROOT / "pyproject.toml").read_text("utf-8")


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
