"""The Dockerfile: its files and arguments exist, and its RUN lines run in a fresh folder (soak)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import setup_env

ROOT = Path(__file__).parents[1]
LINES = [
    line.partition(" ")
    for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]
IGNORED = (ROOT / ".dockerignore").read_text("utf-8").split()


def arguments(instruction: str) -> list[str]:
    """List what stands behind each instruction of this name."""
    return [rest for name, _, rest in LINES if name == instruction]


def copies() -> dict[str, str]:
    """Map each file or folder that is copied to where it is copied to."""
    words = [copy.split() for copy in arguments("COPY")]
    return {
        source: str(Path(target, source) if target == "./" else target)
        for *sources, target in words
        for source in sources
    }


def build_arguments() -> dict[str, str]:
    """Map each build argument to its default."""
    return {name: default for name, _, default in (line.partition("=") for line in arguments("ARG"))}


def test_it_has_only_the_instructions_that_these_tests_know() -> None:
    assert {name for name, _, _ in LINES} == {"FROM", "WORKDIR", "ARG", "ENV", "COPY", "RUN", "ENTRYPOINT", "CMD"}


def test_it_copies_files_of_the_repository_that_are_not_ignored() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = {part for name in listed.split("\0") for part in (name, name.partition("/")[0])}
    assert set(copies()) <= tracked
    assert not [source for source in copies() if any(fnmatch(source, pattern) for pattern in IGNORED)]


def test_it_copies_all_that_the_setup_reads() -> None:
    read = {setup_env.CONSTRAINTS, setup_env.ASSETS, setup_env.PYPROJECT, Path(setup_env.__file__)}
    assert {str(path.relative_to(ROOT)) for path in read} <= set(copies().values())
    assert {"README.md", "src"} <= set(copies().values())


def test_the_build_argument_is_the_variable_that_chooses_the_build_of_torch() -> None:
    given = build_arguments()
    assert given["TORCH_INDEX"] == setup_env.CPU_INDEX
    assert setup_env.torch_index({"TORCH_INDEX": ""}, "Linux", False, lambda index: True) is None
    assert set(given["EXTRAS"].split(",")) <= set(setup_env.EXTRAS)


def test_it_takes_a_python_without_packages_to_compile_and_starts_the_command() -> None:
    ((python,),) = (re.findall(r"^python:(\d+\.\d+)-slim$", image) for image in arguments("FROM"))
    assert python in ("3.11", "3.13")  # pocketsphinx has wheels for these
    (command,), (folder,), (environment,) = arguments("ENTRYPOINT"), arguments("WORKDIR"), arguments("ENV")
    assert json.loads(command) == ["f5-tts"]
    assert f"PATH={folder}/.venv/bin:$PATH" in environment.split()


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_its_run_lines_run_in_a_fresh_folder(tmp_path: Path) -> None:
    """Run them with the default arguments but for the extras, since all would take long."""
    for source, target in copies().items():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
        copy(ROOT / source, tmp_path / target)
    path = f"{tmp_path}/.venv/bin:{Path(sys.executable).resolve().parent}:/usr/bin:/bin"
    environment = {**os.environ, **build_arguments(), "EXTRAS": "mini", "PATH": path}
    lines = arguments("RUN")
    output = ""
    for line in lines:
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        output += done.stdout
    assert re.search(r"^extras .*mini", output, re.MULTILINE)
