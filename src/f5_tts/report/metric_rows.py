"""Rows of a `metrics.jsonl`, as far as they are intact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def metric_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a metrics.jsonl; return none where there is no such file.

    A line that a crash cut short or filled with zeros is dropped silently. Other damaged lines are dropped and counted
    in a printed message.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    rows = [row for line in lines if (row := metric_row(line)) is not None]
    if (num := sum(bool(line.strip(b"\0 ")) for line in lines[:-1]) - len(rows)) > 0:
        print(f"{path}: {num} lines are damaged, and left out")
    return rows


def metric_row(line: bytes) -> dict[str, Any] | None:
    """Parse one line to an update and its metrics, each a number or None; return None for any other line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("update")) is not int:
        return None
    return row if all(value is None or type(value) in (int, float) for value in row.values()) else None
