"""Evaluation lists in the formats that others use, read as test items."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from f5_tts.data.formats import Entry, audio_files, read_entries
from f5_tts.data.paths import exists
from f5_tts.data.rows import SPEAKER_COLUMNS, read_rows
from f5_tts.data.tables import as_name, is_header, read_table, read_text
from f5_tts.eval.test_set import REQUIRED, EvalItem, check_ids, check_keys, field_names, read_fields

Fields = Mapping[str, Any]  # fields of an EvalItem; "problem" instead: why there are none
MAX_SHOWN = 10  # problems that one message lists
LIBRISPEECH_NAMES = ("ref_utt", "ref_dur", "ref_txt", "gen_utt", "gen_dur", "gen_txt")
SEED_NAMES = ("id", "prompt_text", "prompt_audio", "text", "target_audio")
CODES = {  # of the languages of the MiniMax multilingual test set
    "arabic": "ar",
    "cantonese": "yue",
    "chinese": "zh",
    "czech": "cs",
    "dutch": "nl",
    "english": "en",
    "finnish": "fi",
    "french": "fr",
    "german": "de",
    "greek": "el",
    "hindi": "hi",
    "indonesian": "id",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "polish": "pl",
    "portuguese": "pt",
    "romanian": "ro",
    "russian": "ru",
    "spanish": "es",
    "thai": "th",
    "turkish": "tr",
    "ukrainian": "uk",
    "vietnamese": "vi",
}


def read_list(path: Path, recordings: Path | None = None) -> list[EvalItem]:
    """Read the items of a list or of a data set folder, in order; none of them counts as seen in training.

    Args:
        path: a file of a format in docs/evaluation.md, or a folder.
        recordings: folder that holds the recordings of a LibriSpeech-PC list, e.g. LibriSpeech/test-clean.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: no format fits, or rows cannot be used: all of them are counted, the first ones named by line.
    """
    return as_items(format_rows(path, recordings), path)


def as_items(rows: Iterable[tuple[str, Fields]], path: Path) -> list[EvalItem]:
    """Make items of the rows of a list; raise ValueError for those that cannot be used, and if there are none."""
    items, problems = list[EvalItem](), list[str]()
    for place, fields in rows:
        try:
            items.append(make_item(fields, path if path.is_dir() else path.parent))
        except ValueError as error:
            problems.append(f"{path}, {place}: {error}")
    if problems:
        more = [f"and {len(problems) - MAX_SHOWN} more"] if len(problems) > MAX_SHOWN else []
        raise ValueError("; ".join([*problems[:MAX_SHOWN], *more]))
    if not items:
        raise ValueError(f"{path} holds no items")
    check_ids(items, path)
    return items


def make_item(fields: Fields, folder: Path) -> EvalItem:
    """Make an item whose recordings are there; raise ValueError for what cannot be spoken or compared."""
    if "problem" in fields:
        raise ValueError(fields["problem"])
    item = EvalItem(**{**fields, "seen": False})
    if not item.prompt_text.strip():
        raise ValueError("'prompt_text' is empty; the words of the prompt are needed")
    target = find_audio(str(item.target_audio), folder) if item.target_audio else ""
    return replace(item, prompt_audio=find_audio(str(item.prompt_audio), folder), target_audio=target)


def find_audio(name: str, folder: Path) -> str:
    """Find a recording beside the list, else from the current folder; raise ValueError if it is in neither."""
    for candidate in (folder / Path(name).expanduser(), Path(name)):
        if exists(candidate):
            return str(candidate)
    raise ValueError(f"no recording at {folder / name}")


def format_rows(
    path: Path, recordings: Path | None, required: Sequence[str] = REQUIRED
) -> Iterator[tuple[str, Fields]]:
    """Yield the rows of a list in its format; where rows name their fields, `required` are those that each needs."""
    return READERS[list_format(path)](path, recordings, required)


# --- detection of the format ---


def list_format(path: Path) -> str:
    """Detect the format by the ending, else by the separators of the first line; raise ValueError if none fits."""
    if path.is_dir():
        return "folder"
    if lists_recordings(path):
        return "recordings"
    if path.suffix in (".jsonl", ".csv", ".tsv"):
        return path.suffix[1:]
    first = next((line for _, line in text_lines(path)), "")
    if path.suffix == ".txt" and not {"|", "\t"} & set(first):
        return "texts"
    if first.count("\t") == len(LIBRISPEECH_NAMES) - 1:
        return "librispeech"
    formats = {1: "minimax", 3: "seed", 4: "seed"}
    if first.count("|") in formats:
        return formats[first.count("|")]
    raise ValueError(
        f"{path}: the first line is {first[:60]!r}, which is no line of Seed-TTS-eval (name|prompt text|prompt audio|"
        f"text), of LibriSpeech-PC ({', '.join(LIBRISPEECH_NAMES)}, separated by tabs) or of MiniMax (speaker|text); "
        "or name the file .jsonl, .csv or .tsv"
    )


def lists_recordings(path: Path) -> bool:
    """Check whether a table or JSONL file names recordings and their texts, as `prepare` reads them, and no prompts."""
    if path.suffix not in (".jsonl", ".csv", ".tsv") or not path.is_file():
        return False
    first = next((line for _, line in text_lines(path)), "")
    try:
        fields = json.loads(first) if path.suffix == ".jsonl" else read_table(path)[0].fields
    except (ValueError, RecursionError, IndexError):
        return False  # which its reader reports
    names = [as_name(name) for name in fields]
    return is_header(names) and not {"prompt_audio", "prompt_text"} & set(names)


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file that are not blank, each with its place."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield f"line {number}", line


# --- the formats ---


def text_rows(path: Path, recordings: Path | None, required: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    """Yield the lines of a file as texts, each with its number as id."""
    for place, line in text_lines(path):
        yield place, {"id": place.removeprefix("line "), "text": line.strip()}


def jsonl_rows(path: Path, recordings: Path | None, required: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    """Yield the objects of a JSONL file."""
    for number, fields in read_fields(path, required):
        yield f"line {number}", {"id": str(number), **fields}


def table_rows(path: Path, recordings: Path | None, required: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    """Yield the rows of a table with a header that names fields (`field_names`); empty fields count as not given."""
    header, *records = read_table(path)
    names = [as_name(name) for name in header.fields]
    known = field_names(names)
    check_keys(dict.fromkeys(known.values()), f"{path}, line {header.line}", required)
    for record in records:
        given = zip(names, record.fields, strict=False)
        values = {known[name]: value.strip() for name, value in given if value.strip() and name in known}
        if len(record.fields) != len(names):
            values = {"problem": f"{len(record.fields)} fields, where the header has {len(names)}"}
        yield f"line {record.line}", {**dict.fromkeys(required, ""), **table_values(values, record.line)}


def table_values(values: dict[str, str], line: int) -> Fields:
    """Return the fields of a table's row, with the duration as a number and the line as id where there is none."""
    try:
        duration = float(values["duration"]) if "duration" in values else None
    except ValueError:
        return {"problem": f"'duration' is {values['duration']!r}; a number of seconds is needed"}
    return {"id": str(line), **values, "duration": duration}


def seed_rows(path: Path, recordings: Path | None, required: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    """Yield the rows of a `meta.lst` of Seed-TTS-eval: name|prompt text|prompt audio|text, and maybe the recording.

    Where the recording of the text is not named, it is `wavs/<name>.wav` beside the list, if that is there.
    """
    for place, line in text_lines(path):
        values = [value.strip() for value in line.split("|")]
        if len(values) not in (4, 5):
            yield place, {"problem": f"{len(values)} fields between pipes, where four or five are needed"}
            continue
        beside = f"wavs/{values[0]}.wav"
        target = beside if exists(path.parent / beside) else ""
        yield place, dict(zip(SEED_NAMES, [*values, target][:5], strict=True))


def librispeech_rows(path: Path, recordings: Path | None, required: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    """Yield the rows of F5-TTS's LibriSpeech-PC list; its durations are not used, as in F5-TTS's evaluation.

    Raises ValueError without a folder of recordings.
    """
    if recordings is None:
        raise ValueError(
            f"{path} is a LibriSpeech-PC list, which names no files: say eval.recordings=FOLDER, e.g. "
            "LibriSpeech/test-clean"
        )
    for place, line in text_lines(path):
        values = line.split("\t")
        if len(values) != len(LIBRISPEECH_NAMES):
            yield place, {"problem": f"{len(values)} fields between tabs, where {len(LIBRISPEECH_NAMES)} are needed"}
            continue
        row = dict(zip(LIBRISPEECH_NAMES, values, strict=True))
        yield (
            place,
            {
                "id": row["gen_utt"],
                "prompt_audio": librispeech_path(row["ref_utt"], recordings),
                "prompt_text": row["ref_txt"].strip(),
                "text": row["gen_txt"].strip(),
                "speaker": row["gen_utt"].split("-")[0],
                "target_audio": librispeech_path(row["gen_utt"], recordings),
                "language": "en",
            },
        )


def librispeech_path(name: str, recordings: Path) -> str:
    """Return the path of a recording of LibriSpeech, as 61-70968-0000: speaker, chapter, number."""
    return str(Path(recordings, *name.split("-")[:-1], f"{name}.flac").absolute())


def minimax_rows(path: Path, recordings: Path | None, required: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    """Yield the rows of a MiniMax multilingual list: text/<language>.txt with lines <language>_<gender>|text.

    The prompt is the recording in speaker/<language>/<language>_<gender>/, its text the one in speaker/prompt_text.txt.
    """
    speakers = path.absolute().parent.parent / "speaker"
    texts = dict(line.split("|", 1) for _, line in text_lines(speakers / "prompt_text.txt") if "|" in line)
    for place, line in text_lines(path):
        speaker, _, text = (part.strip() for part in line.partition("|"))
        language = speaker.rpartition("_")[0]
        prompt = next(iter(audio_files(speakers / language / speaker)), None)
        if prompt is None or prompt.name not in texts:
            lacking = "recording" if prompt is None else f"text of {prompt.name} in prompt_text.txt"
            yield place, {"problem": f"no {lacking} for the speaker {speaker!r} in {speakers}"}
            continue
        yield (
            place,
            {
                "id": f"{path.stem}_{place.removeprefix('line ')}",
                "prompt_audio": str(prompt),
                "prompt_text": texts[prompt.name].strip(),
                "text": text,
                "speaker": speaker,
                "language": CODES.get(language, ""),
            },
        )


def folder_rows(path: Path, recordings: Path | None, required: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    """Yield an item for each recording of a data set or list: its text, after another recording of the same speaker.

    A folder with duration.json is one that `prepare` made, any other is read as `prepare` does. Without speakers, the
    prompt is another recording of the set, and there is no recording to compare with. A recording without a text, or
    without another one of its speaker, gives no item; the number of these is printed.
    """
    clips = data_set_clips(path)
    groups = defaultdict[str, list[dict[str, str]]](list)
    for clip in clips:
        groups[clip["speaker"]].append(clip)
    left_out = sum(len(group) for group in groups.values() if len(group) == 1)
    if left_out:
        print(f"{path}: {left_out} of {len(clips)} recordings are left out: no other one of their speaker is a prompt")
    prompts = {
        clip["id"]: group[index - 1] for group in groups.values() if len(group) > 1 for index, clip in enumerate(group)
    }
    for clip in clips:
        if clip["id"] in prompts:
            prompt = prompts[clip["id"]]
            target = clip["target_audio"] if clip["speaker"] else ""
            of_prompt = {"prompt_audio": prompt["target_audio"], "prompt_text": prompt["text"]}
            yield f"recording {clip['id']}", {**clip, **of_prompt, "target_audio": target}


def data_set_clips(path: Path) -> list[dict[str, str]]:
    """List the recordings of a folder or list: id (their position), text, speaker, language and target_audio.

    Entries that cannot be used are printed.
    """
    if (path / "duration.json").is_file():
        found = [(str(row.audio_path), row.sentence, row.speaker, row.columns) for row in read_rows(path)]
    else:
        entries = read_entries(path)[1]
        for entry in entries:
            if entry.problem:
                print(f"{path}, {entry.place}: left out: {entry.problem}")
        usable = [entry for entry in entries if not entry.problem]
        found = [(entry.audio, entry.text, speaker_of(entry), entry.columns) for entry in usable]
    return [
        {
            "id": str(number),
            "text": text,
            "speaker": str(speaker or ""),
            "language": str(columns.get("language") or ""),
            "target_audio": audio,
        }
        for number, (audio, text, speaker, columns) in enumerate(found, start=1)
    ]


def speaker_of(entry: Entry) -> Any:
    """Return the speaker of an entry; None where no column names one."""
    return next((entry.columns[name] for name in SPEAKER_COLUMNS if entry.columns.get(name)), None)


Reader = Callable[[Path, Path | None, Sequence[str]], Iterator[tuple[str, Fields]]]
READERS: dict[str, Reader] = {
    "texts": text_rows,
    "jsonl": jsonl_rows,
    "csv": table_rows,
    "tsv": table_rows,
    "seed": seed_rows,
    "librispeech": librispeech_rows,
    "minimax": minimax_rows,
    "folder": folder_rows,
    "recordings": folder_rows,
}
