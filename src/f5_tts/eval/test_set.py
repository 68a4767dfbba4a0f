"""Held-out test set from a JSONL file."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from f5_tts.config.schema import ConfigError
from f5_tts.data.audio import Source
from f5_tts.data.rows import SPEAKER_COLUMNS
from f5_tts.data.tables import AUDIO_NAMES, TEXT_NAMES
from f5_tts.data.texts import normalize
from f5_tts.data.tokenizer import is_valid_unicode

LANGUAGE = re.compile(r"[a-z]{2,3}")  # a code, as of ISO 639


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalItem:
    """Test item: a text to synthesize in the voice of a prompt."""

    prompt_audio: Source  # path as written in the list; of a held-out row, its recording
    prompt_text: str
    text: str  # text to synthesize
    id: str  # constant over evaluations, so that two models can be compared item by item
    duration: float | None = None  # s, of the speech to synthesize; None: by the rule of inference, from the prompt
    speaker: str = ""
    seen: bool = False  # whether the speaker was in the training data
    language: str = ""  # code of the text's language, e.g. "en"; "": by its script
    target_audio: Source = ""  # path of a recording of the text in that voice; "": there is none
    kind: str = ""  # of the text, e.g. numbers; results are shown by kind, too

    def __post_init__(self) -> None:
        if self.duration is not None and not 0 < self.duration < math.inf:  # written so that NaN fails too
            raise ValueError(f"'duration' is {self.duration}; it must be above 0 seconds")
        if not re.fullmatch(r"\w[\w .-]{0,99}", self.id):
            raise ValueError(
                f"'id' is {self.id!r:.60}; it names the clips, so only letters, digits and . _ - are allowed"
            )
        if self.language and not LANGUAGE.fullmatch(self.language):
            raise ValueError(
                f"'language' is {self.language!r:.60}; a code of two or three letters is needed, as en or zh"
            )
        if not normalize(self.text):
            raise ValueError(
                f"'text' is empty or has no word: {self.text!r:.60}; an error rate needs at least one word"
            )


FIELD_TYPES: dict[str, Any] = get_type_hints(EvalItem) | dict.fromkeys(("prompt_audio", "target_audio"), str)  # of JSON
OTHER_NAMES = {"text": TEXT_NAMES, "target_audio": AUDIO_NAMES, "speaker": SPEAKER_COLUMNS}  # as in lists of recordings
REQUIRED = [field.name for field in fields(EvalItem) if field.default is MISSING and field.name != "id"]
JSON_NAMES = {str: "string", float: "number", bool: "true or false", float | None: "number"}


def read_items(path: str | Path) -> list[EvalItem]:
    """Read the items of a JSONL file, in order; each line has fields of `EvalItem`, and those of REQUIRED.

    An item without `id` is named by the number of its line. Raises FileNotFoundError or ValueError with the line.
    """
    path = Path(path)
    items = [build_item(fields, number, path) for number, fields in read_fields(path)]
    if not items:
        raise ValueError(f"{path} holds no items; one JSON object per line is needed")
    check_ids(items, path)
    return items


def build_item(fields: dict[str, Any], number: int, path: Path) -> EvalItem:
    """Make an item of the fields of a line; its file and line number open every error message."""
    try:
        return EvalItem(**{"id": str(number), **fields})
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from error


def read_fields(path: Path, required: Sequence[str] = REQUIRED) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines of a JSONL file with their numbers, as checked fields of `EvalItem`; blank lines are left out.

    Raises FileNotFoundError or ValueError with the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no evaluation list at {path}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may contain other line breaks
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, parse_line(line, f"{path}, line {number}", required)


def items_folder(items_dir: str | None) -> Path:
    """Return the folder of dev.jsonl and test.jsonl; raise ConfigError where none is set."""
    if items_dir is None:
        raise ConfigError(
            "nothing says which texts are spoken: name a list, eval.list=FILE (docs/evaluation.md), or "
            "eval.items_dir=FOLDER with dev.jsonl and test.jsonl"
        )
    return Path(items_dir)


def unseen_speakers(items: Sequence[EvalItem], path: Path) -> list[EvalItem]:
    """Return the items of speakers that were not in the training data; raise ValueError if there are none."""
    unseen = [item for item in items if not item.seen]
    if not unseen:
        raise ValueError(
            f'{path} has no item of an unseen speaker ("seen": false), but evaluation needs some: give a list '
            "with such items in eval.items_dir"
        )
    return unseen


def parse_line(line: str, location: str, required: Sequence[str]) -> dict[str, Any]:
    """Parse one line; its file and line number open every error message."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{location}: not JSON ({error.msg} at character {error.pos + 1})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{location}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{location}: a JSON object is needed, found {type(row).__name__}")
    row = {name: row[key] for key, name in field_names(row).items()}
    check_keys(row, location, required)
    try:
        return {key: parse_field(key, value) for key, value in row.items()}
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{location}: {error}") from error


def field_names(names: Iterable[str]) -> dict[str, str]:
    """Map the names of a header to fields of `EvalItem`, some of which have other names in lists of recordings.

    Of several names of one field only the first known one is in the result.
    """
    given = list(names)
    found = {field: next((n for n in (field, *others) if n in given), None) for field, others in OTHER_NAMES.items()}
    others = {name for names in OTHER_NAMES.values() for name in names}
    return {name: name for name in given if name not in others} | {n: field for field, n in found.items() if n}


def check_keys(row: dict[str, Any], location: str, required: Sequence[str] = REQUIRED) -> None:
    """Raise ValueError for missing or unknown keys."""
    missing, unknown = sorted(set(required) - row.keys()), sorted(row.keys() - FIELD_TYPES.keys())
    if missing or unknown:
        problems = [f"missing {missing}"] * bool(missing) + [f"unknown {unknown}"] * bool(unknown)
        optional = [name for name in FIELD_TYPES if name not in required]
        lacks_prompts = missing and set(missing) <= {"prompt_audio", "prompt_text"} < set(required)
        hint = "; or say eval.prompts=LIST, whose voices then speak the texts" if lacks_prompts else ""
        raise ValueError(
            f"{location}: keys {' and '.join(problems)}; needed: {', '.join(required)}; optional: "
            f"{', '.join(optional)}{hint}"
        )


def parse_field(key: str, value: Any) -> Any:
    """Check the type of a value and return it; a whole number becomes a float where a float is needed."""
    kind = FIELD_TYPES[key]
    if kind == float | None and type(value) is int:
        return float(value)
    if (type(value) is bool and kind is not bool) or not isinstance(value, kind):
        raise ValueError(f"'{key}' is {value!r:.60}; a JSON {JSON_NAMES[kind]} is needed")
    if kind is str and not is_valid_unicode(value):
        raise ValueError(f"'{key}' is {value!r:.60}; a lone surrogate is not valid Unicode")
    return value


def check_ids(items: list[EvalItem], path: Path) -> None:
    """Raise ValueError if an id occurs twice."""
    ids = [item.id for item in items]
    if repeated := sorted(i for i, num in Counter(ids).items() if num > 1):
        raise ValueError(f"{path}: 'id' must be unique, found more than once: {repeated}")
