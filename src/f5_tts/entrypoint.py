"""Entry point of every command: a user error becomes one sentence and exit code 2, without a traceback."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from f5_tts.console import make_output_safe

MAX_ERROR_CHARS = 2000  # characters
EXIT_INTERRUPTED = 130  # exit code of a run that the user interrupted
USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, MemoryError)
SCRIPTS = "f5-tts"  # what the names of our commands begin with, in pyproject.toml
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)


def run_command(main: Callable[[list[str]], bool], argv: list[str]) -> NoReturn:
    """Run `main` and exit with its status; with F5_TTS_TRACE=1 errors show their traceback.

    The exit code is 0, 2 after an error, or 130 if `main` was interrupted: by Ctrl-C, or where it returns False.
    """
    handle_ctrl_c(signal.default_int_handler, instead_of=exit_on_ctrl_c)
    tune_malloc()
    make_output_safe()
    shows_trace = os.environ.get("F5_TTS_TRACE") == "1"
    try:
        finished = main(argv)
    except KeyboardInterrupt:
        if shows_trace:
            raise
        exit_on_ctrl_c()
    except USER_ERRORS as error:
        if shows_trace:
            raise
        print(f"error: {truncate_middle(describe_error(error))}", file=sys.stderr)
        exit_process(2)
    if not finished:
        print("the run was stopped and saved: the same command resumes it", file=sys.stderr)
    exit_process(0 if finished else EXIT_INTERRUPTED)


def exit_process(code: int) -> NoReturn:
    """Exit with this code; one of several ranks leaves the interpreter as it is once its exit functions have run.

    A thread of torch.distributed that waits for the interpreter's lock while the interpreter is being taken apart is
    ended by Python inside a C++ function that allows no exception, and so aborts the process. Such threads outlive
    `destroy_process_group` where something still refers to the group, as the device mesh of a sharded model does.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def handle_ctrl_c(handler: Callable[..., object], *, instead_of: Callable[..., object]) -> None:
    """Replace the handler of Ctrl-C if it is the given one; a process that ignores Ctrl-C goes on ignoring it."""
    if signal.getsignal(signal.SIGINT) is instead_of:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def end_on_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the process with one line inside the block, where libraries are imported.

    They might take the exception for an error of their own.
    """
    handle_ctrl_c(exit_on_ctrl_c, instead_of=signal.default_int_handler)
    yield
    handle_ctrl_c(signal.default_int_handler, instead_of=exit_on_ctrl_c)


def exit_on_ctrl_c(number: int = signal.SIGINT, frame: FrameType | None = None) -> NoReturn:
    """End this process at once with one line, without waiting for threads that are still at work."""
    with suppress(Exception):  # the signal may have come in the middle of a write
        sys.stdout.flush()
        sys.stderr.flush()
    os.write(2, b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)


def is_starting_command() -> bool:
    """Check whether Python is importing this package in order to run one of its commands."""
    is_module = sys.argv[:1] == ["-m"] and any(word.partition(".")[0] == "f5_tts" for word in sys.orig_argv)
    return is_module or any(Path(word).name.startswith(SCRIPTS) for word in sys.orig_argv[1:2])


def describe_error(error: BaseException) -> str:
    """Return the message of an error; where it has none, what its type means."""
    if isinstance(error, MemoryError) and not str(error):
        return "the memory of this machine is full: close other programs, or lower what the command holds at once"
    return str(error) or type(error).__name__


def describe_end(code: int | None) -> str:
    """Describe how another process ended by its exit code, which is negative where a signal killed it."""
    if code is None or code >= 0:
        return f"ended (exit code {code}; its output, if any, is above)"
    likely = ": the system does this when memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{likely}"


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
