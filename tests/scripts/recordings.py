"""Recordings for the commands that make and check data sets, and functions that run these commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

RATE = 8_000


def record(path: Path, seconds: float = 1.0, volume: float = 0.3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(RATE * seconds))
    envelope = np.where(times < len(times) / 4, 0.01, 1.0)  # a quiet start, as speech has pauses
    soundfile.write(path, volume * envelope * np.sin(0.5 * times), RATE)
    return path


def command_of(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"f5_tts.scripts.{script}", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_of(script, *arguments), capture_output=True, text=True, env=environment(), check=False
    )
