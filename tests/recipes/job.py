"""Tiny commands of the lanes' tests: `python -m tests.recipes.job VERB ARGUMENT...`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType


def write(path: str, text: str) -> None:
    """Append a line to a file, and print it."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    print(f"wrote {text} with {os.environ['OMP_NUM_THREADS']} thread")


def hold(path: str, fifo: str) -> None:
    """Run until SIGINT, then save to a file and exit with 130; a reader of the FIFO knows when the handler is set."""

    def save(number: int, frame: FrameType | None) -> None:
        write(path, "saved")
        sys.exit(130)

    signal.signal(signal.SIGINT, save)
    Path(fifo).write_text("ready", encoding="utf-8")
    while True:
        signal.pause()


def interrupt(fifo: str) -> None:
    """Send SIGINT to the process that started this one, once another command holds; then wait for its answer."""
    Path(fifo).read_text("utf-8")
    os.kill(os.getppid(), signal.SIGINT)
    while True:
        signal.pause()


def fail(fifo: str) -> None:
    """Exit with 7, once another command holds."""
    Path(fifo).read_text("utf-8")
    print("loading\nstep 1\rstep 2\nerror: no such voice")
    sys.exit(7)


if __name__ == "__main__":
    {"write": write, "hold": hold, "interrupt": interrupt, "fail": fail}[sys.argv[1]](*sys.argv[2:])
