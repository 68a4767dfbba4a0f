"""Entry point of every command: a user error becomes one sentence and exit code 2, without a traceback."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import NoReturn

MAX_ERROR_CHARS = 2000  # characters
EXIT_INTERRUPTED = 130  # exit code of a run that the user interrupted
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)


def run_command(main: Callable[[list[str]], bool], argv: list[str]) -> NoReturn:
    """Run `main` and exit with its status; with F5_TTS_TRACE=1 errors show their traceback.

    The exit code is 0, 2 after an error, or 130 if `main` returns False because it was interrupted.
    """
    tune_malloc()
    try:
        finished = main(argv)
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        if os.environ.get("F5_TTS_TRACE") == "1":
            raise
        print(f"error: {truncate_middle(str(error))}", file=sys.stderr)
        sys.exit(2)
    if not finished:
        print("the run was stopped and saved: the same command resumes it", file=sys.stderr)
    sys.exit(0 if finished else EXIT_INTERRUPTED)


def truncate_middle(text: str) -> str:
    """Remove the middle of a message that is longer than MAX_ERROR_CHARS, because of what it quotes."""
    return (
        text
        if len(text) <= MAX_ERROR_CHARS
        else f"{text[: MAX_ERROR_CHARS // 2]} [...] {text[-MAX_ERROR_CHARS // 2 :]}"
    )


def tune_malloc() -> None:
    """Let glibc keep freed CPU memory for reuse, up to 32 MiB per tensor; other systems are not changed.

    By default glibc returns large blocks to the system at once, and each new block costs a page fault per 4 KiB: a
    fifth of the run time of a small model.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
