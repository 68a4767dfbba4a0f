"""The users' guide (`e2e/guide.md`), which must not be changed, and its code blocks and commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from textwrap import dedent

PATH = Path(__file__).parent / "e2e" / "guide.md"
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"[A-Z_]+=")  # an environment variable before a command


def blocks(language: str = "bash") -> list[str]:
    """List the fenced blocks of a language, in order; an empty name lists those without a language."""
    return [dedent(body) for _, name, body in FENCED.findall(PATH.read_text("utf-8")) if name == language]


def installs() -> list[str]:
    """List the blocks that install packages."""
    return [block for block in blocks() if " -m pip install " in block]


def block_with(words: str) -> str:
    """Return the only bash block that contains these words."""
    (result,) = [block for block in blocks() if words in block]
    return result


def arguments(module: str, folder: str = "/home/someone/f5") -> list[str]:
    """Return the arguments of a module's command; `folder` stands for the current directory."""
    command = block_with(f" -m {module} ").replace("\\\n", " ").replace("$PWD", folder)
    return shlex.split(command.partition(f" -m {module} ")[2])
