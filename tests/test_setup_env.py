from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from importlib import metadata
from pathlib import Path

import pytest
import setup_env
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setup_env import CPU_INDEX, SetupError, torch_index

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def never(index: str) -> bool:
    raise AssertionError(f"{index} was probed although the answer does not matter")


def yes(index: str) -> bool:
    return True


def no(index: str) -> bool:
    return False


# --- package index for torch ---


def test_linux_without_a_gpu_takes_the_cpu_build_where_its_index_answers():
    assert torch_index({}, "Linux", False, yes) == CPU_INDEX


def test_the_registry_serves_where_the_cpu_index_does_not_answer():
    assert torch_index({}, "Linux", False, no) is None


@pytest.mark.parametrize("system, has_gpu", [("Linux", True), ("Darwin", False), ("Windows", False), ("Windows", True)])
def test_a_gpu_or_another_system_takes_the_registry_without_a_probe(system: str, has_gpu: bool):
    assert torch_index({}, system, has_gpu, never) is None


@pytest.mark.parametrize("system, has_gpu", [("Linux", False), ("Linux", True), ("Darwin", False)])
def test_torch_index_decides_alone_where_it_is_set(system: str, has_gpu: bool):
    assert torch_index({"TORCH_INDEX": "https://mirror/cu126"}, system, has_gpu, never) == "https://mirror/cu126"


def test_an_empty_torch_index_means_the_registry():
    assert torch_index({"TORCH_INDEX": ""}, "Linux", False, never) is None


def test_an_index_answers_when_it_serves_its_page_for_torch(tmp_path: Path):
    (tmp_path / "torch").mkdir()
    with HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert setup_env.answers(address, timeout_s=30)
        assert not setup_env.answers(f"{address}/elsewhere", timeout_s=30)
        server.shutdown()
    assert not setup_env.answers(address, timeout_s=30)


def test_an_index_that_stays_silent_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not setup_env.answers(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.5)


def test_torch_falls_back_to_the_registry_where_its_index_fails(capsys: pytest.CaptureFixture[str]):
    calls: list[tuple[str, ...]] = []

    def install(*arguments: str) -> None:
        calls.append(arguments)
        if "--index-url" in arguments:
            raise SetupError("no such version")

    setup_env.install_torch("torch==2.13.0", "https://mirror", install)
    assert calls[0] == ("install", "--no-deps", "torch==2.13.0", "--index-url", "https://mirror")
    assert calls[1:] == [("install", "--no-deps", "torch==2.13.0")]
    assert "https://mirror has no torch==2.13.0" in capsys.readouterr().out


# --- pinned versions ---


def constraints() -> list[Requirement]:
    lines = setup_env.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def pins(python: str) -> dict[str, list[str]]:
    """Map each package to the versions that are pinned for this Python."""
    result: dict[str, list[str]] = {}
    for pin in constraints():
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            result.setdefault(canonicalize_name(pin.name), []).extend(s.version for s in pin.specifier)
    return result


def requirements(python: str) -> list[Requirement]:
    """List the requirements of the package and its extras for this Python, without references to itself."""
    result = [r for r in map(Requirement, metadata.requires("f5-tts-rl") or []) if r.name != "f5-tts-rl"]
    extras = ["", *(metadata.metadata("f5-tts-rl").get_all("Provides-Extra") or [])]
    places = [{"python_version": python, "extra": extra} for extra in extras]
    return [r for r in result if r.marker is None or any(r.marker.evaluate(place) for place in places)]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_one_pin_within_its_range(python: str):
    pinned = pins(python)
    for requirement in requirements(python):
        (version,) = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} but pinned to {version}"
    assert [name for name, versions in pinned.items() if len(versions) != 1] == []


def test_pins_are_exact_and_name_no_local_build():
    assert [str(pin) for pin in constraints() if [s.operator for s in pin.specifier] != ["=="] or "+" in str(pin)] == []


def test_torch_is_pinned_in_one_line():
    assert setup_env.torch_pin("numpy==2\ntorch==2.13.0\n") == "torch==2.13.0"
    with pytest.raises(SetupError, match="pins torch 0 times"):
        setup_env.torch_pin("torchaudio==2.13.0\n")
    assert setup_env.torch_pin(setup_env.CONSTRAINTS.read_text(encoding="utf-8")).startswith("torch==")


def test_uv_gets_the_pinned_versions_of_pip():
    """Run `make constraints` after a change of constraints.txt."""
    pyproject, constraints = setup_env.PYPROJECT.read_text("utf-8"), setup_env.CONSTRAINTS.read_text("utf-8")
    assert setup_env.with_constraints(pyproject, constraints) == pyproject
    lines = [f"  '{line}'," for line in constraints.splitlines() if not line.startswith("#")]
    assert pyproject.splitlines()[-len(lines) - 1 :] == [*lines, "]"]


def test_the_pins_of_uv_are_replaced_and_the_rest_of_the_file_stays():
    file = "[tool.uv]\nconstraint-dependencies = [\n{}]\n[tool.ruff]\nlist = [\n]\n"
    before, after = (file.format(pins) for pins in ("  'old==1',\n", "  'a==2 ; python_version < \"3.11\"',\n"))
    assert setup_env.with_constraints(before, '# what was tested\na==2 ; python_version < "3.11"\n') == after


def test_uv_chooses_the_build_of_torch_by_a_group_from_the_index_that_the_setup_takes():
    pyproject = tomllib.loads(setup_env.PYPROJECT.read_text("utf-8"))
    uv, groups = pyproject["tool"]["uv"], pyproject["dependency-groups"]
    (index,) = uv["index"]
    assert uv["sources"]["torch"] == {"index": index["name"], "group": "cpu"} and index["explicit"]
    assert index["url"] == CPU_INDEX
    assert groups == {"cpu": ["torch"], "cuda": ["torch"]} and uv["conflicts"] == [[{"group": name} for name in groups]]


# --- arguments and Python version ---


@pytest.mark.parametrize("version", [(3, 9), (3, 14), (2, 7), (4, 0)])
def test_an_untested_python_is_refused_with_a_sentence(version: tuple[int, int]):
    with pytest.raises(SetupError, match=r"needs 3\.10 to 3\.13; name another one: make PYTHON="):
        setup_env.check_python(version)


@pytest.mark.parametrize("version", [(3, 10), (3, 13)])
def test_a_tested_python_is_accepted(version: tuple[int, int]):
    setup_env.check_python(version)


def test_the_extras_are_those_of_the_package():
    assert set(setup_env.EXTRAS) <= set(metadata.metadata("f5-tts-rl").get_all("Provides-Extra") or [])


def test_an_unknown_extra_is_named_and_exits_with_2(capsys: pytest.CaptureFixture[str]):
    assert setup_env.main(["--extras", "mini,evla"]) == 2
    assert "['evla']" in capsys.readouterr().err


def test_a_larger_set_up_covers_the_smaller_ones():
    names = [stamp.name for stamp in setup_env.stamps(Path(".venv"), ["mini", "eval", "dev"])]
    assert names == [".ready-mini", ".ready-mini,eval", ".ready-mini,eval,dev"]


def stamps_of_make() -> set[str]:
    makefile = (setup_env.ROOT / "Makefile").read_text(encoding="utf-8")
    return {word for word in makefile.split() if word.startswith(".venv/.ready-") and "%" not in word}


def test_make_waits_for_stamps_that_the_set_up_writes():
    written = {str(stamp) for stamp in setup_env.stamps(Path(".venv"), list(setup_env.EXTRAS))}
    waited_for = stamps_of_make() - {".venv/.ready-docs"}
    assert waited_for and waited_for <= written


def test_the_site_is_set_up_alone_without_the_other_extras():
    assert ".venv/.ready-docs" in stamps_of_make()
    assert [str(stamp) for stamp in setup_env.stamps(Path(".venv"), ["docs"])] == [".venv/.ready-docs"]


# --- virtual environment ---


def bare_venv(path: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
    return path


def test_a_virtual_environment_is_made_anew_unless_it_has_pip(tmp_path: Path):
    venv = bare_venv(tmp_path / "venv")
    commands: list[list[str]] = []
    setup_env.make_venv(venv, commands.append)
    assert commands == [[sys.executable, "-m", "venv", "--clear", str(venv)]]

    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "pip.py").touch()
    setup_env.make_venv(venv, commands.append)
    assert len(commands) == 1


def test_no_virtual_environment_is_not_usable(tmp_path: Path):
    assert not setup_env.is_usable(tmp_path / "none")


def test_a_failing_command_is_shown_with_the_last_lines_it_printed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = "import sys\nfor i in range(40): print('line', i)\nsys.exit('the reason')"
    with pytest.raises(SetupError) as caught:
        setup_env.run([sys.executable, "-c", program])
    shown = str(caught.value).splitlines()
    assert "exit code 1" in shown[0]
    assert sys.executable in shown[1]
    assert shown[-30:] == [f"line {i}" for i in range(11, 40)] + ["the reason"]


@pytest.mark.parametrize(
    "output",
    [
        "Could NOT find Python (missing: Interpreter Development.Module)",
        "CMake Error: CMAKE_C_COMPILER not set, after EnableLanguage",
    ],
)
def test_a_missing_compiler_or_header_is_explained(output: str):
    text = setup_env.failure(["pip"], 1, output)
    assert "pocketsphinx" in text and "apt install build-essential python3-dev, or take 3.11 or 3.13" in text


def test_another_failure_says_nothing_of_a_compiler():
    assert "apt" not in setup_env.failure(["pip"], 1, "no such version")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "  Downloading https://mirror/torch-2.13.0-cp311.whl (180.2 MB)\n",
            "downloading torch-2.13.0-cp311.whl (180.2 MB)",
        ),
        ("Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)\n", ""),
        ("Installing collected packages: a, b, c\n", "installing 3 packages"),
        ("  Building wheel for pocketsphinx (pyproject.toml): started\n", "building pocketsphinx"),
        ("Collecting torch==2.13.0\n", ""),
        ("\n", ""),
    ],
)
def test_downloads_of_megabytes_are_told_and_what_is_built_and_installed(line: str, told: str):
    assert setup_env.sign_of_life(line) == told


def test_a_command_is_told_while_it_runs_not_at_its_end(capsys: pytest.CaptureFixture[str]):
    with setup_env.Phase("packages"):
        setup_env.run([sys.executable, "-c", "print('Downloading a.whl (2.0 MB)'); print('other')"])
    assert re.fullmatch(r"setup: packages \.\.\. \n  downloading a\.whl \(2\.0 MB\) \d s\n", capsys.readouterr().out)
