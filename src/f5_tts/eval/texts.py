"""Texts without prompts, such as the hard sets of this package, in the voices of a list of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

from f5_tts.config.schema import EvalConfig
from f5_tts.eval.lists import Fields, as_items, data_set_clips, find_audio, format_rows, list_format, read_list
from f5_tts.eval.test_set import EvalItem

HARD_SETS = {"hard_en": "en", "hard_zh": "zh"}  # names of lists of this package, and their languages
HARD_FOLDER = Path(__file__).parent / "hard_set"
OF_TEXTS = ("texts", "jsonl", "csv", "tsv")  # formats that may hold texts alone
PROMPT_KEYS = ("prompt_audio", "prompt_text")


def read_eval_list(name: str, settings: EvalConfig) -> list[EvalItem]:
    """Read the items of a list, or of texts in the voices of eval.prompts; the name may be that of a hard set.

    Raises:
        ValueError: the list cannot be used; it has texts alone, without eval.prompts; or prompts of its own, with it.
    """
    recordings = Path(settings.recordings) if settings.recordings else None
    path = HARD_FOLDER / f"{name}.tsv" if name in HARD_SETS else Path(name)
    if settings.prompts is None:
        if name in HARD_SETS or list_format(path) == "texts":
            raise ValueError(
                f"{name} holds texts alone, and somebody has to speak them: say eval.prompts=LIST, a folder or list of "
                "recordings with their texts"
            )
        return read_list(path, recordings)
    voices = read_prompts(Path(settings.prompts), recordings)
    return as_items(spoken(read_texts(path), voices, HARD_SETS.get(name, "")), path)


def read_texts(path: Path) -> Iterator[tuple[str, Fields]]:
    """Yield the rows of a list of texts; raise ValueError for a format whose items have prompts."""
    found = list_format(path)
    if found not in OF_TEXTS:
        raise ValueError(f"{path} has prompts of its own (it is read as {found}): leave out eval.prompts")
    yield from format_rows(path, None, required=("text",))


def spoken(rows: Iterator[tuple[str, Fields]], voices: Sequence[Fields], language: str) -> Iterator[tuple[str, Fields]]:
    """Give the voices to the texts in turn."""
    for (place, fields), voice in zip(rows, cycle(voices), strict=False):
        if any(fields.get(key) for key in PROMPT_KEYS):
            yield place, {"problem": "the row has a prompt of its own: leave out eval.prompts"}
        else:
            yield place, {"language": language, **fields, **voice}


def read_prompts(path: Path, recordings: Path | None) -> list[Fields]:
    """Read the prompts of a list, or all recordings of a folder, each once.

    Raises ValueError if there is none, if one is not there, or if its text is missing.
    """
    if list_format(path) in ("folder", "recordings"):
        found = [prompt(clip["target_audio"], clip["text"], clip["speaker"]) for clip in data_set_clips(path)]
    else:
        rows = [fields for _, fields in format_rows(path, recordings, required=PROMPT_KEYS)]
        found = [
            prompt(find_audio(row["prompt_audio"], path.parent), row["prompt_text"], row.get("speaker", ""))
            for row in rows
        ]
    silent = [voice["prompt_audio"] for voice in found if not voice["prompt_text"].strip()]
    if silent or not found:
        which = f"{len(silent)} without its words, such as {silent[0]}" if silent else "none"
        raise ValueError(f"eval.prompts={path} needs recordings with their texts, found {which}")
    return list({voice["prompt_audio"]: voice for voice in found}.values())


def prompt(audio: str, text: str, speaker: str) -> Fields:
    """Return the fields of an item that a prompt gives."""
    return {"prompt_audio": audio, "prompt_text": text, "speaker": speaker}
