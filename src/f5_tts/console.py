"""Console output that no character ends, and that passes on no escape codes of files, lists or servers."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any

CURSOR = re.compile(r"(?:\r|\n|\033\[A|\r\033\[K)+")  # what progress bars write in calls of their own
COLOR = re.compile(r"\033\[[0-9;]*m")
CONTROL = re.compile(r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tab and line ends


def make_output_safe() -> None:
    """Let stdout and stderr escape the characters that they cannot encode and the control characters of any text.

    Where one of them can no longer be written (a closed pipe, a full disk, a terminal that is gone), the other one says
    so, and the command goes on.
    """
    streams = sys.stdout, sys.stderr
    for stream, other in zip(streams, reversed(streams), strict=True):
        if isinstance(stream, TextIOWrapper) and "write" not in vars(stream):
            filter_writes(stream, other)


def filter_writes(stream: TextIOWrapper, other: Any) -> None:
    """Let a stream escape what it is given to write; a failure is told to the other stream, once."""
    write, flush, is_lost = stream.write, stream.flush, False

    def without_failure(call: Callable[[], Any]) -> None:
        nonlocal is_lost
        try:
            call()
        except OSError as error:
            if not is_lost:
                is_lost = True
                print(f"warning: {stream.name} cannot be written ({error}): its output is lost", file=other)

    def write_escaped(text: str) -> int:
        encodable = escape_controls(text).encode(stream.encoding, "backslashreplace")
        without_failure(lambda: write(encodable.decode(stream.encoding)))
        return len(text)

    stream.write = write_escaped
    stream.flush = lambda: without_failure(flush)


def escape_controls(text: str) -> str:
    r"""Replace control characters by their escapes, such as \x1b, and drop colors.

    Line ends and tabs stay. So does what a progress bar writes: a carriage return at either end, and calls that only
    move the cursor.
    """
    if not CONTROL.search(text) or CURSOR.fullmatch(text):
        return text
    body = COLOR.sub("", text)
    start, end = ("\r" if body[:1] == "\r" else ""), ("\r" if body[1:].endswith("\r") else "")
    body = body[len(start) : len(body) - len(end)]
    return start + CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", body) + end
