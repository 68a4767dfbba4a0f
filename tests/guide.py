"""The guide (`e2e/guide.md`), which this project keeps word for word, and the blocks and commands in it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from textwrap import dedent

PATH = Path(__file__).parent / "e2e" / "guide.md"
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"[A-Z_]+=")  # of a variable, before a command


def blocks(language: str = "bash") -> list[str]:
    """The fenced blocks of a language, in order; those of no language by an empty name."""
    return [dedent(body) for _, name, body in FENCED.findall(PATH.read_text("utf-8")) if name == language]


def installs() -> list[str]:
    """Blocks that install packages."""
    return [block for block in blocks() if " -m pip install " in block]


def block_with(words: str) -> str:
    """The one bash block in which these words stand."""
    (result,) = [block for block in blocks() if words in block]
    return result


def arguments(module: str, folder: str = "/home/someone/f5") -> list[str]:
    """What the command of a module is given, `folder` being where the user stands."""
    command = block_with(f" -m {module} ").replace("\\\n", " ").replace("$PWD", folder)
    return shlex.split(command.partition(f" -m {module} ")[2])
