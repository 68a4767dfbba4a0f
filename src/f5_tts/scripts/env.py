"""What a bug report needs, as `f5-tts env` prints it: versions, the system, processors and installed extras."""

from __future__ import annotations

import os
import platform
import subprocess
from argparse import Namespace
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import f5_tts
from f5_tts.commands import start
from f5_tts.extras import extras_of_this_package
from f5_tts.installation import FOLDER, is_clone

LIBRARIES = ("torch", "numpy", "accelerate", "datasets", "hydra-core", "huggingface-hub", "soundfile")


def run(arguments: Namespace) -> bool:
    """Run the command: print a line for each fact, without names of folders, files or users."""
    for name, text in facts():
        print(f"{name:12} {text}")
    print("add the output of f5-tts doctor, with the arguments of the run, to a report on a run")
    return True


def facts() -> Iterator[tuple[str, str]]:
    """Yield name and value of each fact."""
    yield "f5-tts-rl", f"{f5_tts.__version__}, {describe_clone() if is_clone() else 'an installed package'}"
    yield "Python", platform.python_version()
    yield "system", platform.platform()
    yield "CPU", f"{os.cpu_count()} cores, {platform.machine()}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}"
    yield "GPU", describe_gpus()
    yield from ((name, installed(name) or "not installed") for name in LIBRARIES)
    complete = [extra for extra, names in extras_of_this_package().items() if all(map(installed, names))]
    yield "extras", ", ".join(sorted(complete)) or "none is complete"


def installed(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def describe_clone() -> str:
    """Describe the commit of the clone, and whether files of it were changed."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=FOLDER, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "a clone without git"
    return f"a clone at {found.stdout.strip()}"


def describe_gpus() -> str:
    """Describe the GPUs that torch sees, and its CUDA version."""
    import torch  # after the lines before it are printed, in case that it fails

    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for CPUs"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{', '.join(names) or 'none'}; {built}"


if __name__ == "__main__":
    start("env")
