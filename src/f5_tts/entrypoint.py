"""How a command of ours ends: a user's mistake is one sentence and exit code 2, never a trace."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import NoReturn

MAX_ERROR_CHARS = 2000  # characters of an error
EXIT_INTERRUPTED = 130  # the exit code of a run that the user interrupted
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def run_command(main: Callable[[list[str]], bool], argv: list[str]) -> NoReturn:
    """Run `main`; F5_TTS_TRACE=1 shows the trace behind the sentence."""
    tune_malloc()
    try:
        finished = main(argv)
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        if os.environ.get("F5_TTS_TRACE") == "1":
            raise
        print(f"error: {truncate_middle(str(error))}", file=sys.stderr)
        sys.exit(2)
    if not finished:
        print("stopped, and saved: the same command goes on from here", file=sys.stderr)
    sys.exit(0 if finished else EXIT_INTERRUPTED)


def truncate_middle(text: str) -> str:
    """A sentence without its middle, where what it quotes makes it longer than a screen."""
    return (
        text
        if len(text) <= MAX_ERROR_CHARS
        else f"{text[: MAX_ERROR_CHARS // 2]} [...] {text[-MAX_ERROR_CHARS // 2 :]}"
    )


def tune_malloc() -> None:
    """Let glibc keep what torch frees on the CPU, up to 32 MiB a tensor; other systems stay as they are.

    As it comes, glibc gives large blocks back at once, and touching the next ones costs a page fault for every 4 KiB: a
    fifth of the time of a small model.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
