"""Rows of a data set in a local folder or on the Hugging Face hub.

A folder `data/<name>_<tokenizer>` holds `raw/` (saved by the `datasets` library) or `raw.arrow`, with the columns
audio_path, text and, for pairs, one of SPEAKER_COLUMNS, and a file `duration.json` ({"duration": [seconds, ...]}).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundfile

from f5_tts.data.audio import MIN_SECONDS, EncodedAudio
from f5_tts.data.paths import is_saved, require_data_set, saved_splits
from f5_tts.data.tables import AUDIO_NAMES, TEXT_NAMES
from f5_tts.download.hub import offline_if_unreachable
from f5_tts.files import HUB

if TYPE_CHECKING:
    from datasets import Dataset as Table

MAX_DURATION_S = 1e9  # s
TABLE_ERRORS = (
    ValueError,
    OSError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
)  # errors of `datasets` for damaged files
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk")  # the first one that a data set has is used


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One recording: its audio, its text, its duration in seconds, and its speaker."""

    audio_path: str | EncodedAudio
    text: str | list[str]  # a list holds the tokenizer's symbols, as F5-TTS's own preparation scripts write them
    duration: float
    speaker: str | None
    columns: Mapping[str, Any] = field(default_factory=dict)  # all columns of the data set, for rewards

    @property
    def sentence(self) -> str:
        """Return the text as written: the column raw_text if `text` holds symbols."""
        return self.columns.get("raw_text") or "".join(self.text)


def read_data_set(name: str, folder: Path) -> list[Row]:
    """Read the rows of `datasets.name` from the hub or from its folder."""
    return read_hub(name) if name.startswith(HUB) else read_rows(folder)


# --- a folder ---


def read_rows(directory: Path) -> list[Row]:
    """Read the rows of a data set folder.

    Raises:
        FileNotFoundError: a part of the layout is missing.
        ValueError: the parts disagree, are damaged or empty.
    """
    durations = read_durations(directory / "duration.json")
    table = read_table(directory)
    missing = {"audio_path", "text"} - set(table.column_names)
    if missing:
        raise ValueError(
            f"{directory / 'raw'} has no column {', '.join(sorted(missing))}: it needs audio_path and text"
        )
    if len(table) != len(durations):
        raise ValueError(
            f"{directory}: raw/ holds {len(table)} rows, duration.json {len(durations)}: create both again"
        )
    rows = table.to_list()
    for index, row in enumerate(rows):
        if not isinstance(row["audio_path"], str | None):
            raise ValueError(
                f"{directory / 'raw'}: audio_path of row {index} is not a text but {row['audio_path']!r:.40}"
            )
    return [make_row(row, row["audio_path"] or "", row["text"], s) for row, s in zip(rows, durations, strict=True)]


def make_row(columns: Mapping[str, Any], audio: str | EncodedAudio, text: Any, seconds: float) -> Row:
    """Make a row from its columns; raise ValueError if the text is neither a string nor a list of strings."""
    texts = text if isinstance(text, list) else [text or "", columns.get("raw_text") or ""]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the text of {audio} is {text!r:.40}; it must be a text, or a list of symbols")
    speaker = next((columns[name] for name in SPEAKER_COLUMNS if columns.get(name) is not None), None)
    speaker_name = None if speaker is None else str(speaker)
    return Row(audio_path=audio, text=text or "", duration=seconds, speaker=speaker_name, columns=columns)


def read_table(directory: Path) -> Table:
    """Read the table in `raw/`, or else in `raw.arrow`; raise ValueError if it is damaged or holds splits."""
    raw = directory / "raw"
    raw = raw if raw.is_dir() else raw.with_suffix(".arrow")
    if splits := saved_splits(raw):
        raise ValueError(
            f"{raw} holds the splits {', '.join(splits)}, where one is needed: put the files of {raw / splits[0]} into "
            f"{raw}, or choose it by datasets.name={HUB}{raw}:{splits[0]}"
        )
    return read_table_at(raw)


def read_table_at(path: Path) -> Table:
    """Read a table that `save_to_disk` wrote to a folder, or an Arrow file; raise ValueError if it is damaged."""
    from datasets import Dataset as Table  # takes a second to import
    from pyarrow import ArrowException

    try:
        table = Table.load_from_disk(str(path)) if path.is_dir() else Table.from_file(str(path))
        table.data.validate(full=True)  # without it, a damaged offset may point anywhere
    except (*TABLE_ERRORS, ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is not a complete data set ({type(error).__name__}: {reason}): create it again"
        ) from error
    return table


def read_durations(path: Path) -> list[float]:
    """Read the seconds of each row from duration.json.

    Raises:
        FileNotFoundError: the file or the table beside it is missing.
        ValueError: the file is damaged or empty, or a duration is not above 0.
    """
    require_data_set(path.parent)
    try:
        durations = json.loads(path.read_text(encoding="utf-8"))["duration"]
        if not isinstance(durations, list) or not all(type(seconds) in (int, float) for seconds in durations):
            raise TypeError("other values are there")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f'{path} is not {{"duration": [seconds of each row]}}: {type(error).__name__}: {error}'
        ) from error
    if not durations:
        raise ValueError(f"{path} lists no durations: the data set is empty")
    check_durations(durations, str(path))
    return [float(seconds) for seconds in durations]


def check_durations(durations: Sequence[Any], location: str) -> None:
    """Raise ValueError at the first duration that is no number above 0 and below MAX_DURATION_S."""
    for index, seconds in enumerate(durations):
        if type(seconds) not in (int, float) or not 0 < seconds < MAX_DURATION_S:
            shown = repr(seconds)[:40]
            raise ValueError(f"{location}: row {index} lasts {shown} s; a duration is a number above 0")


# --- the hub ---


def read_hub(name: str) -> list[Row]:
    """Read the rows of `hf://org/repo`, `hf://org/repo:split` or `hf://org/repo:configuration/split`.

    A local folder may take the place of org/repo, also one written by `save_to_disk`; the default split is train. The
    data set is downloaded into the hub's cache, where the audio stays encoded.

    Raises:
        FileNotFoundError: there is no such data set, or no connection.
        ValueError: its files cannot be read, or the split must be chosen.
    """
    from datasets import Dataset as Table
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    repository, _, selection = name.removeprefix(HUB).partition(":")
    configuration, _, split = selection.rpartition("/")
    if is_saved(Path(repository)) or saved_splits(Path(repository)):
        return rows_of_table(read_saved(Path(repository), split, name), name)
    unreachable = None
    try:
        with nullcontext() if Path(repository).is_dir() else offline_if_unreachable(repository) as unreachable:
            table = load_dataset(repository, configuration or None, split=split or "train", trust_remote_code=False)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        problem = f"datasets.name={name}: {repository} is not a folder on this machine"
        if unreachable is not None:
            raise FileNotFoundError(
                f"{problem}, the hub's cache does not hold it, and {unreachable}; copy the data set into a folder and "
                f"say datasets.name={HUB}FOLDER"
            ) from error
        raise FileNotFoundError(f"{problem}, and of the hub: {error}") from error
    except DatasetGenerationError as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise ValueError(f"datasets.name={name}: its files cannot be read ({reason})") from error
    except ValueError as error:  # perhaps no such split, or several configurations; the library lists them
        choose = f" (choose by {HUB}{repository}:SPLIT or {HUB}{repository}:CONFIGURATION/SPLIT)"
        is_choice = re.search("split|config", str(error), re.IGNORECASE)
        raise ValueError(f"datasets.name={name}: {error}{choose if is_choice else ''}") from error
    assert isinstance(table, Table)  # the type of a single split
    return rows_of_table(table, name)


def read_saved(folder: Path, split: str, name: str) -> Table:
    """Read what `save_to_disk` wrote: a data set, or the split of a DatasetDict, by default train or the only one."""
    splits = saved_splits(folder)
    if not splits:
        return read_table_at(folder)
    chosen = split or (splits[0] if len(splits) == 1 else "train")
    if chosen not in splits:
        raise ValueError(f"datasets.name={name}: there is no split {chosen}; choose by {HUB}{folder}:SPLIT of {splits}")
    return read_table_at(folder / chosen)


def rows_of_table(table: Table, name: str) -> list[Row]:
    """Make the rows of a data set with an audio column, without decoding the audio."""
    from datasets import Audio

    audio = audio_column(table, name)
    text = text_column(table, name)
    clips = table.select_columns([audio]).cast_column(audio, Audio(decode=False))
    rows = table.remove_columns([audio]).to_list()
    durations = table["duration"] if "duration" in table.column_names else header_durations(clips, audio)
    check_durations(durations, f"datasets.name={name}, column duration")
    numbered = enumerate(zip(rows, durations, strict=True))
    return [make_row(row, EncodedAudio(clips, index), row[text], seconds) for index, (row, seconds) in numbered]


def audio_column(table: Table, name: str) -> str:
    """Find the only audio column: of decoded or encoded audio, or of paths under a usual name.

    Raises ValueError if there is none or several.
    """
    from datasets import Audio

    columns = [column for column, kind in table.features.items() if isinstance(kind, Audio) or is_encoded(kind)]
    if not columns:
        columns = [column for column in AUDIO_NAMES if getattr(table.features.get(column), "dtype", "") == "string"][:1]
    if len(columns) != 1:
        raise ValueError(
            f"datasets.name={name} needs one column of audio and has {len(columns)}; columns: {table.features}"
        )
    return columns[0]


def is_encoded(kind: Any) -> bool:
    """Check whether a column holds audio as bytes and path, which nobody has marked as audio."""
    return isinstance(kind, dict) and kind.keys() == {"bytes", "path"}


def text_column(table: Table, name: str) -> str:
    """Find the text column, `text` if there are several candidates; raise ValueError if none is clear."""
    columns = [column for column in TEXT_NAMES if column in table.column_names]
    if not columns or (len(columns) > 1 and columns[0] != "text"):
        known = ", ".join(TEXT_NAMES)
        raise ValueError(f"datasets.name={name} needs one text column of {known}; columns: {table.column_names}")
    return columns[0]


def header_durations(clips: Table, column: str) -> list[float]:
    """Read durations in seconds from the audio headers; the `datasets` library caches them for the next run."""
    measured = clips.map(
        header_duration, input_columns=[column], remove_columns=[column], desc="reading the durations of the audio"
    )
    return list(measured["duration"])


def header_duration(clip: Mapping[str, Any] | None) -> dict[str, float]:
    """Read one clip's duration in seconds from its header.

    An unreadable or empty clip gets the minimum duration; training reports the reason when it reads the clip.
    """
    clip = clip or {}
    try:
        info = soundfile.info(BytesIO(clip["bytes"]) if clip.get("bytes") else clip["path"])
        return {"duration": max(MIN_SECONDS, info.frames / info.samplerate)}
    except (soundfile.LibsndfileError, TypeError, KeyError, ZeroDivisionError):
        return {"duration": MIN_SECONDS}
