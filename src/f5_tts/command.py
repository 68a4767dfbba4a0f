"""How a command of ours ends: a user's mistake is one sentence and exit code 2, never a trace."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

STOPPED = 130  # the exit code of a run that the user interrupted


def command(main: Callable[[list[str]], bool], argv: list[str]) -> NoReturn:
    """Run `main`; F5_TTS_TRACE=1 shows the trace behind the sentence."""
    try:
        finished = main(argv)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("F5_TTS_TRACE") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if not finished:
        print("stopped, and saved: the same command goes on from here", file=sys.stderr)
    sys.exit(0 if finished else STOPPED)
