"""Lists of recordings as tables: separators, quotes, header names and encodings as spreadsheets write them."""

from __future__ import annotations

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DELIMITERS = ("|", "\t", ";", ",")
AUDIO_NAMES = ("audio_file", "audio_path", "audio", "audio_filepath", "file_name", "filename", "path", "wav")
TEXT_NAMES = ("text", "sentence", "transcription", "transcript", "normalized_text")
FILE_ENDING = re.compile(r"\.[A-Za-z]\w{1,4}$")
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a table, and the line of the file on which it begins."""

    line: int
    fields: list[str]


def read_text(path: Path) -> str:
    """Read a file in UTF-8, or in UTF-16 with a byte order mark, with plain line ends.

    Raises FileNotFoundError if it is missing, ValueError if it is neither.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from error


def read_table(path: Path) -> list[Record]:
    """Read the rows of a list; rows without any content are left out.

    A field that is quoted as a whole is unquoted, and may hold separators and line breaks; any other quote is content.
    Raises ValueError without a separator, and for a quote that swallows the rows after it.
    """
    text, first = read_text(path), 1
    hint = re.match(r"sep=(.)\n", text)  # which Excel writes and reads
    if hint:
        text, first = text[hint.end() :], 2
    delimiter = hint[1] if hint else find_delimiter(text)
    if delimiter is None:
        raise ValueError(f"{path}: no column is separated by a pipe, a tab, a semicolon or a comma")
    records = [Record(first + number, fields) for number, fields in parse(text, delimiter, path, first)]
    return [record for record in records if any(map(str.strip, record.fields))]


def find_delimiter(text: str) -> str | None:
    """Find the separator: the one that gives the first line known names, or begins it with a file's name.

    Else it is the first of DELIMITERS in that line.
    """
    line = text.lstrip("\n").partition("\n")[0]
    signs = [sign for sign in DELIMITERS if sign in line]
    known = [sign for sign in signs if is_header([unquote(name) for name in line.split(sign)])]
    named = [sign for sign in signs if is_file_name(line.partition(sign)[0])]
    return next(iter([*known, *named, *signs]), None)


def parse(text: str, delimiter: str, path: Path, first: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each row, with the number of line breaks before it."""
    sign = re.escape(delimiter)
    field = re.compile(rf'(?P<quoted>"(?:[^"]|"")*"(?={sign}|\n|\Z))|[^{sign}\n]*')
    fields, position, line, start = list[str](), 0, 0, 0
    while position < len(text):
        match = field.match(text, position)
        assert match is not None, "the second alternative matches anything"
        value = match[0]
        if match["quoted"] and swallows_rows(value, delimiter, (fields or [""])[0]):
            begin, end = first + line, first + line + value.count("\n")
            raise ValueError(
                f"{path}, line {begin}: the quote in it closes only in line {end}"
                ', after other rows; double a quote that belongs to the text and put quotes around it ("""Oh"")'
            )
        fields.append(unquote(value) if match["quoted"] else value)
        line, position = line + value.count("\n"), match.end() + 1
        if text[match.end() : position] != delimiter:
            yield start, fields
            fields, line = [], line + 1
            start = line
    if fields:
        yield start, [*fields, ""]


def swallows_rows(field: str, delimiter: str, first: str) -> bool:
    """Check whether the lines after the first of a quoted field are rows: each has a separator.

    Where the row's own first field is the name of a file, theirs are such names, too.
    """
    rows = [line.partition(delimiter) for line in field.split("\n")[1:]]
    return bool(rows) and all(sign and (is_file_name(name) or not is_file_name(first)) for name, sign, _ in rows)


def is_file_name(field: str) -> bool:
    """Check whether a field ends as the name of a file does, with a dot and a few letters."""
    return bool(FILE_ENDING.search(unquote(field.strip())))


def unquote(field: str) -> str:
    """Return a field without the quotes around it, and with doubled quotes as one."""
    is_quoted = len(field) > 1 and field.startswith('"') and field.endswith('"')
    return field[1:-1].replace('""', '"') if is_quoted else field


def as_name(field: str) -> str:
    """Return the name of a column in lower case with underscores."""
    return re.sub(r"[\s_-]+", "_", field.strip().lower())


def is_header(fields: Sequence[str]) -> bool:
    """Check whether the fields name a column of recordings and one of texts."""
    names = {as_name(field) for field in fields}
    return bool(names & set(AUDIO_NAMES)) and bool(names & set(TEXT_NAMES))


def text_columns(rows: Sequence[Sequence[str]]) -> list[int]:
    """Find the columns of texts in rows without known names: the second and third, unless one holds labels.

    Labels are numbers, or words without white space of which some repeat, such as speakers.
    """
    width = min(max(map(len, rows), default=0), 3)
    columns = [[row[index].strip() for row in rows if len(row) > index] for index in range(1, width)]
    texts = [index for index, values in enumerate(columns, start=1) if not is_label(values)]
    return texts or [1]


def is_label(values: Sequence[str]) -> bool:
    """Check whether the values of a column are numbers or repeat, without a space in any of them."""
    given = [value for value in values if value]
    if not given or any(" " in value for value in given):
        return False
    return all(map(NUMBER.fullmatch, given)) or len(set(given)) <= len(given) / 2
