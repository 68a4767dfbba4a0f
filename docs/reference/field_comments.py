"""Griffe extension for the API pages: comments of dataclass fields are shown, and <name> is text, not HTML.

`make docs` loads it (mkdocs.yml); it is no part of the package.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Griffe extension that is called for each attribute and each object."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Take the comment at the end of an attribute's line, else the lines of comment above it, as its docstring."""
        if attr.docstring is None and attr.lineno is not None and isinstance(attr.filepath, Path):
            lines = attr.filepath.read_text("utf-8").splitlines()
            if comment := comment_of(lines[: attr.lineno]):
                attr.docstring = griffe.Docstring(as_text(comment), lineno=attr.lineno, parent=attr)

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Escape <name> in docstrings."""
        if obj.docstring is not None:
            obj.docstring.value = as_text(obj.docstring.value)


def comment_of(lines: list[str]) -> str:
    """Return the comment that belongs to the last line."""
    if found := re.search(r"  # (.*)$", lines[-1]):
        return found[1]
    above = itertools.takewhile(lambda line: line.lstrip().startswith("# "), reversed(lines[:-1]))
    return " ".join(reversed([line.lstrip()[2:] for line in above]))


def as_text(docstring: str) -> str:
    """Escape every < outside code."""
    return "".join(
        part if part.startswith("`") else part.replace("<", "&lt;") for part in re.split(r"(`[^`]*`)", docstring)
    )
