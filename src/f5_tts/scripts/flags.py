"""Command-line flags of the commands that read recordings."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable

from f5_tts.config.load import read_yaml


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags of commands that read audio: --workers and --max_seconds."""
    max_seconds, num = read_yaml("_base").datasets.max_seconds, os.cpu_count() or 1
    max_help = "longest recording, s, as datasets.max_seconds of the training; default: %(default)s"
    parser.add_argument("--workers", type=positive(int), default=num, metavar="N", help="default: %(default)s")
    parser.add_argument("--max_seconds", type=positive(float), default=max_seconds, metavar="S", help=max_help)


def positive(kind: type[int] | type[float]) -> Callable[[str], int | float]:
    """Return an argparse type that parses a number above 0."""

    def number(text: str) -> int | float:
        if not kind(text) > 0:  # this form also refuses NaN
            raise ArgumentTypeError(f"{text} is not above 0")
        return kind(text)

    return number
