"""Source formats of a new data set (CSV, LJSpeech, a folder, JSONL), read as lists of entries."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from f5_tts.data.other_formats import advice, is_decoder_installed, is_other_sound
from f5_tts.data.paths import exists
from f5_tts.data.rows import SPEAKER_COLUMNS
from f5_tts.data.tables import (
    AUDIO_NAMES,
    TEXT_NAMES,
    Record,
    as_name,
    find_delimiter,
    is_header,
    read_table,
    read_text,
    text_columns,
)
from f5_tts.data.tokenizer import escape_surrogates, is_valid_unicode

RESERVED = ("audio_file", "audio_path", "audio", "text", "left_out")  # `prepare` marks entries with the last one
KNOWN_NAMES = (*AUDIO_NAMES, *TEXT_NAMES, *SPEAKER_COLUMNS, "language")
MISSING_TEXT = "no text"
SPACES = "white space"  # kind of change
OTHER_FORMAT = "is not read without PyAV"
TEXT_SUFFIXES = (".txt", ".TXT", ".lab", ".normalized.txt")  # of the text beside a recording
SOUND_SUFFIXES = (".aif", ".aifc", ".oga", ".opus", ".wave")  # that libsndfile reads besides its names of formats
LONELY_TEXT = "a text without a recording of its name"
MAX_LISTS = 5  # that one message names
NO_TEXTS = ("vocab.txt", "readme.txt", "license.txt")  # files beside recordings that are the text of none


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One recording listed in a source."""

    place: str  # where it is listed: "line 12", or the path of the recording
    audio: str  # an absolute path, which need not exist
    text: str = ""  # one line, with runs of white space as single spaces
    columns: Mapping[str, Any] = field(default_factory=dict)  # the other columns
    problem: str = ""  # why the entry cannot be used; empty if it can
    changes: tuple[str, ...] = ()  # kinds of what reading it has changed in the text

    @property
    def kind(self) -> str:
        """Return the problem's kind in two words."""
        kinds = {MISSING_TEXT: MISSING_TEXT, LONELY_TEXT: "lonely text"}
        return "other format" if OTHER_FORMAT in self.problem else kinds.get(self.problem, "no entry")


# --- detection of the format ---


def read_entries(source: Path, kind: str | None = None) -> tuple[str, list[Entry]]:
    """Read the entries of a list or folder, in order, and its format, which is detected if `kind` is None.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the format is unknown, or there are no entries.
    """
    if not source.exists():
        raise FileNotFoundError(f"no file or folder at {source}")
    kind = kind or detect_format(source)
    entries = FORMATS[kind](source)
    if not entries:
        raise ValueError(f"{source}, read as {kind}, lists no recordings")
    return kind, entries


def detect_format(source: Path) -> str:
    """Detect the format of a list or folder; raise ValueError if there is no match."""
    list_path = list_file(source)
    if list_path.suffix == ".jsonl" or (list_path.suffix == ".json" and read_text(list_path).lstrip()[:1] == "{"):
        return "jsonl"
    records = read_table(list_path)[:2] if list_path.is_file() and find_delimiter(read_text(list_path)) else []
    if records and is_header(records[0].fields):
        return "csv"
    if records and (list_path.parent / "wavs").is_dir():
        return "ljspeech"
    if any(is_audio_file(Path(record.fields[0].strip())) for record in records):
        return "csv"
    if source.is_dir() and any(is_audio_file(path) or is_other_sound(path) for path in source.rglob("*")):
        check_lists_beside(source)
        return "folder"
    raise ValueError(
        f"{source} is none of: csv (recording and text, separated by pipe, tab, semicolon or comma, with or without a "
        f"header such as audio_file and text), ljspeech (metadata.csv beside wavs/), folder (a.wav and a.txt side by "
        "side), jsonl (a .jsonl file); or say --format"
    )


def check_lists_beside(folder: Path) -> None:
    """Raise ValueError where no recording of a folder has a text beside it, and lists there may have the texts."""
    lists = [path for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".tsv", ".jsonl")]
    if lists and not any(text_beside(path) for path in audio_files(folder)):
        names = " or ".join(map(str, lists[:MAX_LISTS]))
        raise ValueError(
            f"{folder} has recordings without texts beside them; name the list that has the texts: {names}"
        )


def list_file(source: Path) -> Path:
    """Return the file that lists the recordings: the source itself, or a folder's metadata.csv."""
    return source / "metadata.csv" if source.is_dir() else source


# --- the formats ---


def table_entries(source: Path) -> list[Entry]:
    """Read a table: with a header of known names, or without one (`positional_entries`)."""
    list_path = list_file(source)
    records = read_table(list_path)
    if not records:
        return []
    if is_header(records[0].fields):
        return named_entries(records[0], records[1:], list_path.parent)
    return positional_entries(records, list_path.parent)


def named_entries(header: Record, records: Sequence[Record], folder: Path) -> list[Entry]:
    """Read the rows of a table whose header names recording and text; all other columns are kept."""
    names = [as_name(name) if as_name(name) in KNOWN_NAMES else name.strip() for name in header.fields]
    entries = []
    for record in records:
        place = f"line {record.line}"
        if len(record.fields) == len(names):
            entries.append(make_entry(place, dict(zip(names, record.fields, strict=True)), folder))
        else:
            problem = f"{len(record.fields)} fields, where the header has {len(names)}"
            entries.append(Entry(place=place, audio="", problem=problem))
    return entries


def positional_entries(records: Sequence[Record], folder: Path) -> list[Entry]:
    """Read lines `recording|text`, `id|text|normalized text` (LJSpeech) or `recording|speaker|text`.

    The normalized text is used if there is one. A first line that is no recording, where the second is one, is a header
    and left out.
    """
    has_header = len(records) > 1 and not is_recording(records[0], folder) and is_recording(records[1], folder)
    rows = records[has_header:]
    columns = text_columns([row.fields for row in rows])
    entries = []
    for row in rows:
        texts = [row.fields[index] for index in columns if len(row.fields) > index and row.fields[index].strip()]
        fields = {"audio": row.fields[0], "text": next(reversed(texts), "")}
        if columns == [2]:
            fields["speaker"] = row.fields[1]
        too_many = len(row.fields) > 3 and any(map(str.strip, row.fields[3:]))
        problem = f"{len(row.fields)} fields, where two or three are expected" if too_many else ""
        place = f"line {row.line}"
        entries.append(Entry(place=place, audio="", problem=problem) if problem else make_entry(place, fields, folder))
    return entries


def is_recording(record: Record, folder: Path) -> bool:
    """Check whether the first field of a row names a recording that is there."""
    return exists(find_recording(record.fields[0], folder))


def find_recording(name: str, folder: Path) -> Path:
    """Find the recording that a list names: beside the list, or in `wavs` or `clips` there, with or without its ending.

    Where none of them is there, it is the one beside the list, or in `wavs` for a name without a folder.
    """
    path = os.path.expanduser(name.strip())  # noqa: PTH111 (Path raises for an unknown user)
    has_ending = is_audio_file(Path(path))
    names = [path] if has_ending or not path else [f"{path}.wav", f"{path}.flac", f"{path}.mp3", path]
    candidates = [folder / place / file for place in ("", "wavs", "clips") for file in names]
    there = (candidate for candidate in candidates if exists(candidate))
    in_wavs = not {"/", "\\"} & set(path) and (folder / "wavs").is_dir()
    return next(there, folder / "wavs" / names[0] if in_wavs else folder / path)


def folder_entries(source: Path) -> list[Entry]:
    """Read every recording of a folder, with its text beside it (a.wav and a.txt, a.lab or a.normalized.txt).

    The name of a subfolder is the speaker. Texts without a recording and recordings in other formats are entries that
    cannot be used.
    """
    entries, used = [], set[Path]()
    for path in audio_files(source):
        text_path, place = text_beside(path), escape_surrogates(str(path.relative_to(source)))
        used |= {path.with_suffix(suffix) for suffix in TEXT_SUFFIXES}
        try:
            columns = {"audio": str(path.absolute()), "text": read_text(text_path) if text_path else ""}
        except ValueError as error:
            entries.append(Entry(place=place, audio="", problem=escape_surrogates(str(error))))
            continue
        if path.parent != source:
            columns["speaker"] = path.parent.name
        entries.append(make_entry(place, columns, source))
    return [*entries, *unused_files(source, used)]


def text_beside(recording: Path) -> Path | None:
    """Find the file with the text of a recording."""
    candidates = (recording.with_suffix(suffix) for suffix in reversed(TEXT_SUFFIXES))
    return next((path for path in candidates if exists(path)), None)


def unused_files(source: Path, used: set[Path]) -> Iterator[Entry]:
    """Yield entries for recordings in formats that are not read, and for texts that are of no recording."""
    others = {path for path in source.rglob("*") if is_other_sound(path) and not is_audio_file(path)}
    theirs = {path.with_suffix(suffix) for path in others for suffix in TEXT_SUFFIXES}
    for path in sorted(source.rglob("*")):
        place = escape_surrogates(str(path.relative_to(source)))
        if path in others:
            yield Entry(place=place, audio="", problem=escape_surrogates(advice(path)))
        elif path.name.endswith(TEXT_SUFFIXES) and path.name.lower() not in NO_TEXTS and path not in (used | theirs):
            yield Entry(place=place, audio="", problem=LONELY_TEXT)


def jsonl_entries(source: Path) -> list[Entry]:
    """Read one JSON object per line, with `audio` and `text`, or other known names of both; other keys are kept."""
    entries = []
    for number, line in enumerate(read_text(source).split("\n"), start=1):
        place = f"line {number}"
        try:
            values = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            entries.append(Entry(place=place, audio="", problem=f"not JSON: {error}"))
            continue
        if isinstance(values, dict):
            entries.append(make_entry(place, values, source.parent))
        elif line.strip():
            entries.append(Entry(place=place, audio="", problem="not a JSON object"))
    return entries


FORMATS: dict[str, Callable[[Path], list[Entry]]] = {
    "csv": table_entries,
    "ljspeech": table_entries,
    "folder": folder_entries,
    "jsonl": jsonl_entries,
}


def make_entry(place: str, fields: Mapping[str, Any], folder: Path) -> Entry:
    """Make an entry from a list's columns; relative paths are relative to `folder`. A number as text is a text."""
    audio_name = next((name for name in AUDIO_NAMES if fields.get(name)), "")
    text_name = next((name for name in TEXT_NAMES if name in fields), "")
    audio, text = fields.get(audio_name), fields.get(text_name)
    text = str(text) if type(text) in (int, float) else text
    if not isinstance(audio, str):
        return Entry(place=place, audio="", problem=f"no recording: needs {' or '.join(AUDIO_NAMES)}")
    if not is_valid_unicode(fields):
        return Entry(
            place=place, audio="", problem="names or text that are not Unicode, or lists that are nested too deeply"
        )
    try:
        path = str(find_recording(audio, folder).resolve())
    except (ValueError, OSError, RuntimeError) as error:
        return Entry(place=place, audio="", problem=f"no recording: {error}")
    columns = {key: value for key, value in fields.items() if key not in (*RESERVED, audio_name, text_name)}
    if not isinstance(text, str) or not text.strip():
        return Entry(place=place, audio=path, columns=columns, problem=MISSING_TEXT)
    words = " ".join(text.split())
    changes = (SPACES,) if words != text.strip() else ()
    return Entry(place=place, audio=path, text=words, columns=columns, changes=changes)


def audio_files(folder: Path) -> list[Path]:
    """List the audio files in a folder and its subfolders, sorted."""
    return [path for path in sorted(folder.rglob("*")) if is_audio_file(path)]


def is_audio_file(path: Path) -> bool:
    """Check by the file extension whether this is an audio file."""
    is_ours = path.suffix[1:].upper() in soundfile.available_formats() or path.suffix.lower() in SOUND_SUFFIXES
    return is_ours or (is_other_sound(path) and is_decoder_installed())
