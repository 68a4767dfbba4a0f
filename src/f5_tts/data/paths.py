"""Recordings and data sets that are not where they are looked for."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

from f5_tts.files import HUB


def exists(file: Path) -> bool:
    """Check whether the path is a file; a name that the system does not allow is none."""
    try:
        return file.is_file()
    except (OSError, ValueError):
        return False


def require_audio(file: Path) -> None:
    """Raise FileNotFoundError unless there is such a file."""
    if not exists(file):
        raise FileNotFoundError(describe_missing(file))


def describe_missing(file: Path) -> str:
    """Say that there is no such audio file, and the name under which it is there: with slashes, or in another form."""
    return f"no audio file at {file}{describe_other_name(file)}"


def describe_other_name(file: Path) -> str:
    """Describe the name under which a missing file is there: with slashes, or in another Unicode form."""
    slashed = Path(str(file).replace("\\", "/"))
    if "\\" in str(file) and exists(slashed):
        return f": its path has backslashes, and {slashed} is there; write it with slashes"
    forms = (file.with_name(unicodedata.normalize(form, file.name)) for form in ("NFC", "NFD") if file.name)
    if other := next((form for form in forms if form != file and exists(form)), None):
        form = "composed (NFC)" if unicodedata.is_normalized("NFC", other.name) else "decomposed (NFD)"
        return f", but one whose name has its letters {form}; write the name so"
    return ""


def require_data_set(folder: Path) -> None:
    """Raise FileNotFoundError unless a folder has the files of a data set."""
    raw, durations = folder / "raw", folder / "duration.json"
    if is_saved(folder) or saved_splits(folder):
        raise FileNotFoundError(
            f"{folder} was written by save_to_disk: move all of it into {raw} and add {durations} "
            f'({{"duration": [seconds of each row]}}), or leave it and say datasets.name={HUB}{folder}'
        )
    if not raw.is_dir() and not raw.with_suffix(".arrow").is_file():
        raise FileNotFoundError(
            f"no data set at {folder}: expected {raw} (or {raw}.arrow) and {durations} (the folder is "
            "data/<datasets.name>_<model.tokenizer>, relative to the working directory; f5-tts "
            "prepare makes one)"
        )
    if not durations.is_file():
        raise FileNotFoundError(f'no {durations}: it must hold {{"duration": [seconds of each row]}}')


def saved_splits(folder: Path) -> list[str]:
    """List the splits of a folder that a DatasetDict was saved to; empty for any other folder."""
    path = folder / "dataset_dict.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["splits"]) if path.is_file() else []


def is_saved(folder: Path) -> bool:
    """Check whether a data set was saved to this folder by `save_to_disk`."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
