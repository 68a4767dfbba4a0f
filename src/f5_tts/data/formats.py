"""Source formats of a new data set (CSV, LJSpeech, a folder, JSONL), read as lists of entries."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import soundfile

from f5_tts.data.tokenizer import escape_surrogates, is_valid_unicode

AUDIO_NAMES = ("audio_file", "audio_path", "audio")  # accepted names of the column of recordings
RESERVED = (*AUDIO_NAMES, "text", "left_out")  # `prepare` marks entries with the last one
DELIMITERS = ("|", "\t", ",")
MISSING_TEXT = "no text"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One recording listed in a source."""

    place: str  # where it is listed: "line 12", or the path of the recording
    audio: str  # an absolute path, which need not exist
    text: str = ""  # one line, with runs of white space as single spaces
    columns: Mapping[str, Any] = field(default_factory=dict)  # the other columns
    problem: str = ""  # why the entry cannot be used; empty if it can

    @property
    def kind(self) -> str:
        """Return the problem's kind in two words."""
        return MISSING_TEXT if self.problem == MISSING_TEXT else "no entry"


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
    if list_path.suffix == ".jsonl":
        return "jsonl"
    if list_path.is_file() and find_delimiter(list_path):
        return "csv"
    if list_path.is_file() and (list_path.parent / "wavs").is_dir():
        return "ljspeech"
    if source.is_dir() and audio_files(source):
        return "folder"
    raise ValueError(
        f"{source} is none of: csv (a header with audio_file and text, separated by |, tab or comma), ljspeech "
        "(metadata.csv beside wavs/), folder (a.wav and a.txt side by side), jsonl (a .jsonl file); or say --format"
    )


def list_file(source: Path) -> Path:
    """Return the file that lists the recordings: the source itself, or a folder's metadata.csv."""
    return source / "metadata.csv" if source.is_dir() else source


# --- the formats ---


def csv_entries(source: Path) -> list[Entry]:
    """Read a table whose header has `audio_file` and `text`; all other columns are kept.

    With commas fields may be quoted; with | and tabs they may not.
    """
    list_path = list_file(source)
    delimiter = find_delimiter(list_path)
    if not delimiter:
        raise ValueError(f"{list_path}: its first line must name audio_file and text, separated by |, tab or comma")
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    lines = csv.reader(StringIO(read_text(list_path), newline=""), delimiter=delimiter, quoting=quoting)
    try:
        names, *rest = [(lines.line_num, fields) for fields in lines]
    except csv.Error as error:
        raise ValueError(f"{list_path}, line {lines.line_num}: {error}") from error
    names = [name.strip() for name in names[1]]
    entries = []
    for number, fields in rest:
        place = f"line {number}"
        if len(fields) == len(names):
            entries.append(make_entry(place, dict(zip(names, fields, strict=True)), list_path.parent))
        elif fields:
            problem = f"{len(fields)} fields, where the header has {len(names)}"
            entries.append(Entry(place=place, audio="", problem=problem))
    return entries


def find_delimiter(list_path: Path) -> str | None:
    """Detect the separator of a header that has `text` and a column of recordings; return None if there is none."""
    header = read_text(list_path).partition("\n")[0]
    for delimiter in DELIMITERS:
        names = {name.strip() for name in header.split(delimiter)}
        if "text" in names and names & set(AUDIO_NAMES):
            return delimiter
    return None


def ljspeech_entries(source: Path) -> list[Entry]:
    """Read lines `id|text|normalized text` without a header; the audio is `wavs/<id>.wav`.

    The normalized text is used if there is one.
    """
    list_path, entries = list_file(source), []
    for number, line in enumerate(read_text(list_path).split("\n"), start=1):
        name, *texts = line.split("|")
        if not line.strip():
            continue
        file = name if is_audio_file(Path(name)) else f"{name}.wav"
        columns = {"audio": f"wavs/{file}", "text": next(filter(None, reversed(texts)), "")}
        entries.append(make_entry(f"line {number}", columns, list_path.parent))
    return entries


def folder_entries(source: Path) -> list[Entry]:
    """Read every recording of a folder, with its text beside it (a.wav, a.txt).

    The name of a subfolder is the speaker.
    """
    entries = []
    for path in audio_files(source):
        text_path, place = path.with_suffix(".txt"), escape_surrogates(str(path.relative_to(source)))
        try:
            columns = {"audio": str(path.absolute()), "text": read_text(text_path) if text_path.is_file() else ""}
        except ValueError as error:
            entries.append(Entry(place=place, audio="", problem=escape_surrogates(str(error))))
            continue
        if path.parent != source:
            columns["speaker"] = path.parent.name
        entries.append(make_entry(place, columns, source))
    return entries


def jsonl_entries(source: Path) -> list[Entry]:
    """Read one JSON object per line, with `audio` (or `audio_path`, `audio_file`) and `text`; other keys are kept."""
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
    "csv": csv_entries,
    "ljspeech": ljspeech_entries,
    "folder": folder_entries,
    "jsonl": jsonl_entries,
}


def make_entry(place: str, fields: Mapping[str, Any], folder: Path) -> Entry:
    """Make an entry from a list's columns; relative paths are relative to `folder`."""
    audio, text = next((fields[name] for name in AUDIO_NAMES if fields.get(name)), None), fields.get("text")
    if not isinstance(audio, str):
        return Entry(place=place, audio="", problem=f"no recording: needs {' or '.join(AUDIO_NAMES)}")
    if not is_valid_unicode(fields):
        return Entry(
            place=place, audio="", problem="names or text that are not Unicode, or lists that are nested too deeply"
        )
    try:
        audio = os.path.expanduser(audio.strip())  # noqa: PTH111 (Path raises for an unknown user)
        path = str((folder / audio).resolve())
    except (ValueError, OSError, RuntimeError) as error:
        return Entry(place=place, audio="", problem=f"no recording: {error}")
    columns = {key: value for key, value in fields.items() if key not in RESERVED}
    if not isinstance(text, str) or not text.strip():
        return Entry(place=place, audio=path, columns=columns, problem=MISSING_TEXT)
    return Entry(place=place, audio=path, text=" ".join(text.split()), columns=columns)


def audio_files(folder: Path) -> list[Path]:
    """List the audio files in a folder and its subfolders, sorted."""
    return [path for path in sorted(folder.rglob("*")) if is_audio_file(path)]


def is_audio_file(path: Path) -> bool:
    """Check by the file extension whether this is an audio file."""
    return path.suffix[1:].upper() in soundfile.available_formats()


def read_text(path: Path) -> str:
    """Read a UTF-8 file; raise FileNotFoundError if it is missing, ValueError if it is not UTF-8."""
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})") from error
