"""Held-out test set from a JSONL file."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from f5_tts.data.texts import normalize
from f5_tts.data.tokenizer import is_valid_unicode


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalItem:
    """Test item: a text to synthesize in the voice of a prompt."""

    id: str  # constant over evaluations, so that two models can be compared item by item
    prompt_audio: str  # path as written in the list
    prompt_text: str
    text: str  # text to synthesize
    duration: float  # s, of the speech to synthesize
    speaker: str
    seen: bool  # whether the speaker was in the training data

    def __post_init__(self) -> None:
        if not 0 < self.duration < math.inf:  # written so that NaN fails too
            raise ValueError(f"'duration' is {self.duration}; it must be above 0 seconds")
        if not re.fullmatch(r"\w[\w .-]{0,99}", self.id):
            raise ValueError(
                f"'id' is {self.id!r:.60}; it names the clips, so only letters, digits and . _ - are allowed"
            )
        if not normalize(self.text):
            raise ValueError(
                f"'text' is empty or has no word: {self.text!r:.60}; an error rate needs at least one word"
            )


FIELD_TYPES = {field.name: str(field.type) for field in fields(EvalItem)}
JSON_NAMES = {"str": "string", "float": "number", "bool": "true or false"}


def read_items(path: str | Path) -> list[EvalItem]:
    """Read the items of a JSONL file, in order; each line has exactly the fields of `EvalItem`.

    Raises FileNotFoundError or ValueError with the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no evaluation list at {path}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may contain other line breaks
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    items = [read_item(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise ValueError(f"{path} holds no items; one JSON object per line is needed")
    check_ids(items, path)
    return items


def unseen_speakers(items: Sequence[EvalItem], path: Path) -> list[EvalItem]:
    """Return the items of speakers that were not in the training data; raise ValueError if there are none."""
    unseen = [item for item in items if not item.seen]
    if not unseen:
        raise ValueError(
            f'{path} has no item of an unseen speaker ("seen": false), but evaluation needs some: give a list '
            "with such items in eval.items_dir"
        )
    return unseen


def read_item(line: str, location: str) -> EvalItem:
    """Parse one line; its file and line number open every error message."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{location}: not JSON ({error.msg} at character {error.pos + 1})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{location}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{location}: a JSON object is needed, found {type(row).__name__}")
    check_keys(row, location)
    try:
        return EvalItem(**{key: parse_field(key, value) for key, value in row.items()})
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{location}: {error}") from error


def check_keys(row: dict[str, Any], location: str) -> None:
    """Raise ValueError for missing or unknown keys."""
    missing, unknown = sorted(FIELD_TYPES.keys() - row.keys()), sorted(row.keys() - FIELD_TYPES.keys())
    if missing or unknown:
        problems = [f"missing {missing}"] * bool(missing) + [f"unknown {unknown}"] * bool(unknown)
        raise ValueError(f"{location}: keys {' and '.join(problems)}; allowed are exactly {list(FIELD_TYPES)}")


def parse_field(key: str, value: Any) -> Any:
    """Check the type of a value and return it; a whole number becomes a float where a float is needed."""
    kind = FIELD_TYPES[key]
    if kind == "float" and type(value) is int:
        return float(value)
    if type(value).__name__ != kind:
        raise ValueError(f"'{key}' is {value!r:.60}; a JSON {JSON_NAMES[kind]} is needed")
    if kind == "str" and not is_valid_unicode(value):
        raise ValueError(f"'{key}' is {value!r:.60}; a lone surrogate is not valid Unicode")
    return value


def check_ids(items: list[EvalItem], path: Path) -> None:
    """Raise ValueError if an id occurs twice."""
    ids = [item.id for item in items]
    if repeated := sorted(i for i, num in Counter(ids).items() if num > 1):
        raise ValueError(f"{path}: 'id' must be unique, found more than once: {repeated}")
