from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress

import pytest
from tqdm import tqdm

from f5_tts.console import escape_controls, filter_writes, make_output_safe

TITLE, CLEAR, BELL = "\033]0;you are hacked\a", "\033[2J", "\a"


@contextmanager
def console() -> Iterator[io.BytesIO]:
    """Replace stdout by a stream of a console with the code page 1252; yield the bytes that it gets."""
    raw = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(raw, "cp1252", write_through=True, newline="\n")):
        make_output_safe()
        yield raw


@pytest.mark.parametrize("text", ["\u5b57.wav", "\udcff", "\u0e01"])
def test_what_the_console_cannot_show_is_escaped(text):
    with console() as stdout:
        print(text)
    assert stdout.getvalue() == text.encode("cp1252", "backslashreplace") + b"\n"


@pytest.mark.parametrize("code", [TITLE, CLEAR, BELL, "\x9b2J", "a\rb", "\x00", "\x7f", "\b"])
def test_no_control_character_of_a_text_reaches_the_console(code):
    with console() as stdout:
        print(f"row 3: {code}")
    assert all(byte >= 32 and not 127 <= byte < 160 for byte in stdout.getvalue()[:-1])
    assert b"\\x" in stdout.getvalue()


def test_colors_are_dropped_and_line_ends_and_tabs_stay():
    assert escape_controls("\033[34m\033[1mwandb\033[0m: run\n\tone\r\ntwo") == "wandb: run\n\tone\r\ntwo"


def test_a_bar_and_lines_above_it_are_drawn_as_before():
    with (
        console() as stdout,
        tqdm(total=3, file=sys.stdout, desc="one", position=0) as bar,
        tqdm(total=3, file=sys.stdout, position=1),
    ):
        bar.update()
        tqdm.write("a line", file=sys.stdout)
    text = stdout.getvalue().decode("cp1252")
    assert "\rone:" in text and "\033[A" in text and "\\x" not in text


def test_a_second_call_changes_nothing():
    with console() as stdout:
        make_output_safe()
        print("\\ \033")
    assert stdout.getvalue() == b"\\ \\x1b\n"


def test_a_stream_that_can_no_longer_be_written_is_said_on_the_other_one_and_ends_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    other = io.StringIO()
    with suppress(BrokenPipeError), os.fdopen(writing, "w") as gone:
        assert isinstance(gone, io.TextIOWrapper)
        filter_writes(gone, other)
        for _ in range(3):
            print("a line", file=gone, flush=True)
    assert re.fullmatch(r"warning: .* cannot be written \(.*Broken pipe\): its output is lost\n", other.getvalue())


PROGRAM = """
import sys, warnings
from f5_tts.entrypoint import run_command

def main(argv):
    print("\\u5b57 \\033[2J")
    warnings.warn("\\u5b57 \\033[2J")
    raise ValueError("no audio file at \\u5b57\\033]0;title\\a.wav")

run_command(main, [])
"""


def test_a_command_survives_its_own_messages_on_any_console():
    environment = {"PYTHONIOENCODING": "cp1252:strict", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, env=environment)
    assert done.returncode == 2
    assert done.stdout == b"\\u5b57 \\x1b[2J\n"
    assert b"\033" not in done.stderr and b"\a" not in done.stderr
    assert done.stderr.splitlines()[-1] == b"error: no audio file at \\u5b57\\x1b]0;title\\x07.wav"
