"""Griffe extension for the API pages: comments of dataclass fields are shown, and <name> is text, not HTML.

`make docs` loads it (mkdocs.yml); it is no part of the package.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe


class FieldComments(griffe.Extension):
    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Take the comment at the end of an attribute's line as its docstring."""
        if attr.docstring is None and attr.lineno is not None and isinstance(attr.filepath, Path):
            line = attr.filepath.read_text("utf-8").splitlines()[attr.lineno - 1]
            if found := re.search(r"  # (.*)$", line):
                attr.docstring = griffe.Docstring(as_text(found[1]), lineno=attr.lineno, parent=attr)

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Escape <name> in docstrings."""
        if obj.docstring is not None:
            obj.docstring.value = as_text(obj.docstring.value)


def as_text(docstring: str) -> str:
    """Escape every < outside code."""
    return "".join(
        part if part.startswith("`") else part.replace("<", "&lt;") for part in re.split(r"(`[^`]*`)", docstring)
    )
