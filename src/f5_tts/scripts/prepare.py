"""Convert recordings and their texts to a data set folder: a CSV, LJSpeech, a folder of wav and txt, or JSONL.

Run the same command again after an interruption: it resumes where it stopped.
"""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("prepare")

import hashlib
import json
import shlex
import shutil
import unicodedata
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from f5_tts.data.formats import SPACES, Entry, read_entries
from f5_tts.data.rows import SPEAKER_COLUMNS
from f5_tts.data.scan import map_in_processes, scan_recording
from f5_tts.data.texts import coverage
from f5_tts.data.tokenizer import (
    EMILIA_VOCAB,
    TOKENIZERS,
    Vocabulary,
    read_vocabulary,
    require_space,
    with_new_symbols,
    write_vocabulary,
)
from f5_tts.files import write_atomically
from f5_tts.infer.settings import PUBLISHED

REPORT = "prepare.jsonl"
FORM = "Unicode form"  # kind of change
VOCABULARY = "vocabulary"  # key of the SHA-256 of the vocab.txt that the command wrote
CHANGED = "changed"  # key of the number of texts that were changed, by kind of change
CHANGES = {
    SPACES: "texts have line breaks, tabs or several spaces in a row: each of these is written as one space",
    FORM: "texts have letters with marks in another Unicode form: they are written as the vocabulary has them, or "
    "composed (NFC)",
}
NUM_EXAMPLES, MAX_EXAMPLE_CHARS = 3, 100  # entries that are shown before all are decoded
ODD = "odd recording"  # key of the kinds of what is odd about a recording, in the journal alone
MAX_SYMBOLS = 20  # new symbols on the console
MODEL = "F5TTS_v1_Base"  # of the commands that are shown at the end
MAX_SHOWN = 5  # left-out entries on the console; the report lists all


# --- one entry ---


@dataclass(frozen=True, slots=True)
class RowWorker:
    """Conversion of an entry to a row of the data set, or to the reason why it is left out, as plain JSON values."""

    tokenizer: str
    copy_dir: Path | None  # folder for copies of the recordings
    max_seconds: float

    def __call__(self, numbered: tuple[int, Entry]) -> dict[str, Any]:
        """Decode the recording of a numbered entry; return its row, or the reason why it is left out."""
        number, entry = numbered
        scan = scan_recording(entry.audio, self.max_seconds) if not entry.problem else None
        if scan is None or scan.seconds is None:
            kind, reason = (scan.kind, scan.reason) if scan else (entry.kind, entry.problem)
            return {"left_out": kind, "place": entry.place, "audio": entry.audio, "reason": reason}
        columns = dict(entry.columns)
        columns |= {name: str(columns[name]) for name in SPEAKER_COLUMNS if columns.get(name) is not None}
        audio = self.copy_audio(number, Path(entry.audio)) if self.copy_dir else entry.audio
        odd = {ODD: [kind for kind, _ in scan.notes]} if scan.notes else {}
        return {**columns, "audio_path": audio, **self.texts(entry.text), "duration": scan.seconds, **odd}

    def texts(self, sentence: str) -> dict[str, Any]:
        """Return the text columns; with pinyin, the symbols for F5-TTS's own loader and the sentence for rewards."""
        if self.tokenizer != "pinyin":
            return {"text": sentence}
        return {"text": TOKENIZERS["pinyin"](sentence), "raw_text": sentence}

    def copy_audio(self, number: int, audio: Path) -> str:
        """Copy the recording to the data set's folder and return its path."""
        assert self.copy_dir is not None
        copy = self.copy_dir / f"{number:06d}_{audio.name[-60:]}"  # file systems limit the length of a name
        write_atomically(copy, lambda tmp_path: shutil.copyfile(audio, tmp_path))
        return str(copy)


# --- progress ---


class Journal:
    """The results so far, one per line, after a line that identifies the entries and the settings."""

    def __init__(self, path: Path, title: str) -> None:
        self.path, self.title = path, title
        # a last line without a line break was cut short
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        self.is_same = lines[:1] == [title.encode()]
        try:
            self.results = [json.loads(line) for line in lines[1:]] if self.is_same else []
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged ({error}): remove it, and all recordings are processed again"
            ) from error

    def add(self, results: Iterator[dict[str, Any]]) -> None:
        """Append results to the file as they come; lines cut short by an interruption are removed first."""
        text = "".join(line + "\n" for line in [self.title, *map(as_line, self.results)])
        write_atomically(self.path, lambda tmp_path: tmp_path.write_text(text, encoding="utf-8"))
        with self.path.open("a", encoding="utf-8") as stream:
            for result in results:
                stream.write(as_line(result) + "\n")
                stream.flush()
                self.results.append(result)


def as_line(value: Mapping[str, Any]) -> str:
    """Encode a value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False)


def title_of(entries: Sequence[Entry], worker: RowWorker, base: Vocabulary | None = None) -> str:
    """Return a line that identifies the entries and the settings, by a SHA-256 of both."""
    settings = {"tokenizer": worker.tokenizer, "copy": worker.copy_dir is not None, "max_seconds": worker.max_seconds}
    if base:
        settings["base_vocab"] = hashlib.sha256(as_line({"symbols": base.symbols}).encode()).hexdigest()
    digest = hashlib.sha256(as_line(settings).encode())
    for entry in entries:
        values = asdict(entry)
        del values["changes"]  # which the text shows, and which earlier releases did not count
        digest.update(as_line(values).encode())
    return as_line({"entries": len(entries), **settings, "sha256": digest.hexdigest()})


# --- the folder ---


def prepare(
    entries: Sequence[Entry], folder: Path, worker: RowWorker, workers: int, base: Vocabulary | None = None
) -> list[dict[str, Any]]:
    """Fill the folder and return the entries left out, which prepare.jsonl in the folder lists as well.

    vocab.txt begins with the symbols of `base`.

    Raises:
        FileExistsError: the folder holds another data set.
        ValueError: no entry can be used.
    """
    title, unfinished, (before, left_out_before) = (
        title_of(entries, worker, base),
        folder / ".prepare",
        read_report(folder),
    )
    journal = Journal(unfinished / "journal.jsonl", title)
    own_vocabulary, _ = before.pop(VOCABULARY, None), before.pop(CHANGED, None)
    if before == json.loads(title) and (folder / "raw").is_dir() and (folder / "duration.json").is_file():
        print(f"{folder} holds this data set already")
        return left_out_before
    other = [name for name in ("raw", "raw.arrow", "duration.json") if (folder / name).exists()]
    if other and not journal.is_same:
        remove = " and ".join(other)
        raise FileExistsError(
            f"{folder} holds another data set, or this one with other settings: choose another folder, or remove "
            f"{remove} there"
        )
    todo = list(enumerate(entries))[len(journal.results) :]
    journal.add(map_in_processes(worker, todo, workers, "preparing", done=len(journal.results)))
    rows = [result for result in journal.results if "left_out" not in result]
    left_out = [result for result in journal.results if "left_out" in result]
    for kind, num in Counter(kind for row in rows for kind in row.pop(ODD, [])).items():
        print(f"{num} recordings are odd: {kind} (they are used; check-dataset lists them)")
    if not rows:
        remove_unfinished(folder, unfinished)
        raise ValueError(f"none of {len(entries)} entries can be used; {left_out[0]['place']}: {left_out[0]['reason']}")
    write_layout(rows, folder, unfinished)
    if base or worker.tokenizer in ("custom", "char"):
        own_vocabulary = write_symbols(base.symbols if base else " ", rows, folder / "vocab.txt", own_vocabulary)
    first = as_line({**json.loads(title), VOCABULARY: own_vocabulary, CHANGED: changes_of(entries)})
    text = "\n".join([first, *map(as_line, left_out)]) + "\n"
    write_atomically(folder / REPORT, lambda tmp_path: tmp_path.write_text(text, encoding="utf-8"))
    shutil.rmtree(unfinished)
    return left_out


def remove_unfinished(folder: Path, unfinished: Path) -> None:
    """Remove what the command has written to a folder that gets no data set; files of the user stay."""
    shutil.rmtree(unfinished)
    with suppress(OSError):  # it is not empty
        folder.rmdir()


def read_report(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the settings and the left-out entries of the folder's prepare.jsonl; return empty ones without a whole file.

    The settings have the SHA-256 of the vocab.txt that the command wrote, or null where it kept one, and how many texts
    it changed.
    """
    path = folder / REPORT
    try:
        settings, *left_out = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError, RecursionError):
        return {}, []
    return (settings, left_out) if isinstance(settings, dict) else ({}, [])


def write_symbols(base: Sequence[str], rows: Sequence[dict[str, Any]], path: Path, own: str | None) -> str | None:
    """Write the symbols of `base`, then the others of the rows, to vocab.txt, and return its SHA-256.

    Another file that is there is kept, and None returned, unless its SHA-256 is `own`: that of the file that the
    command wrote for earlier rows.
    """
    symbols = with_new_symbols(base, sorted({symbol for row in rows for symbol in row["text"]}))
    if path.is_file() and sha256_of(path) != own and list(read_vocabulary(path).symbols) != symbols:
        return None
    write_vocabulary(symbols, path)
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_layout(rows: Sequence[dict[str, Any]], folder: Path, unfinished: Path) -> None:
    """Write raw/ and duration.json; each is written atomically."""
    from datasets import Dataset as Table  # this import takes a second
    from datasets import disable_progress_bars

    disable_progress_bars()  # of writing the table, which takes a moment
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: column(name, [row.get(name) for row in rows]) for name in names}
    tmp_path, raw = unfinished / "raw", folder / "raw"
    for stale in (tmp_path, raw):  # left by an interruption at this point
        shutil.rmtree(stale, ignore_errors=True)
    Table.from_dict(columns).save_to_disk(str(tmp_path))
    tmp_path.replace(raw)
    durations = json.dumps({"duration": [row["duration"] for row in rows]})
    write_atomically(folder / "duration.json", lambda path: path.write_text(durations, encoding="utf-8"))


def column(name: str, values: list[Any]) -> list[Any]:
    """Return the values; those of several types become texts, which is printed."""
    import pyarrow

    try:
        pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError):
        print(f"the column {name} holds values of several kinds: they are written as texts")
        return [value if value is None else str(value) for value in values]
    return values


# --- texts ---


def given_vocabulary(folder: Path, tokenizer: str) -> Vocabulary | None:
    """Read the vocabulary that the data set is for: the released one, or a vocab.txt that someone put into the folder.

    Raises ValueError if its first line is not the space.
    """
    path = folder / "vocab.txt"
    if tokenizer == "byte" or (path.is_file() and sha256_of(path) == read_report(folder)[0].get(VOCABULARY)):
        return None
    if not path.is_file():
        return read_vocabulary(EMILIA_VOCAB, tokenizer) if tokenizer == "pinyin" else None
    vocabulary = read_vocabulary(path, tokenizer)
    require_space(vocabulary, f"vocabulary {path}")
    return vocabulary


def base_vocabulary(path: Path, folder: Path, tokenizer: str) -> Vocabulary:
    """Read the vocabulary that the data set's own is to begin with, that of the model which is fine-tuned.

    Raises ValueError where it cannot grow, and FileExistsError for a vocab.txt that someone put into the folder.
    """
    if tokenizer == "byte":
        raise ValueError("--base_vocab: bytes need no vocabulary; leave it out")
    vocabulary = read_vocabulary(path, tokenizer)
    require_space(vocabulary, f"--base_vocab {path}")
    if len(vocabulary) < len(vocabulary.symbols):
        raise ValueError(f"--base_vocab {path} has a symbol twice, so that it cannot grow: {vocabulary.notes[-1]}")
    own = folder / "vocab.txt"
    if own.is_file() and sha256_of(own) != read_report(folder)[0].get(VOCABULARY):
        raise FileExistsError(f"{own} is a vocabulary of yours, which --base_vocab would replace: move it away")
    return vocabulary


def with_composed_texts(entries: Sequence[Entry], vocabulary: Vocabulary | None) -> list[Entry]:
    """Write letters with marks composed (NFC), or as the vocabulary has them."""
    compose = vocabulary.compose if vocabulary else str  # str: as it is
    texts = [compose(unicodedata.normalize("NFC", entry.text)) for entry in entries]
    return [
        entry if entry.text == text else replace(entry, text=text, changes=(*entry.changes, FORM))
        for entry, text in zip(entries, texts, strict=True)
    ]


def changes_of(entries: Sequence[Entry]) -> dict[str, int]:
    """Count the texts that were changed, by kind of change."""
    return dict(Counter(change for entry in entries for change in entry.changes))


def describe_changes(counts: Mapping[str, int]) -> list[str]:
    """List console lines: how many texts were changed, and how."""
    return [f"{num} {CHANGES[change]}" for change, num in counts.items()]


# --- the command ---


def summary(left_out: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield console lines: how many entries were left out, why, and the first few."""
    kinds = Counter(result["left_out"] for result in left_out)
    if left_out:
        yield f"left out {len(left_out)}: " + ", ".join(f"{num} {kind}" for kind, num in kinds.most_common())
        yield from (f"  {result['place']}: {result['reason']}" for result in left_out[:MAX_SHOWN])
    if len(left_out) > MAX_SHOWN:
        yield f"  and {len(left_out) - MAX_SHOWN} more, see prepare.jsonl there"


def lacking_symbols(entries: Sequence[Entry], vocabulary: Vocabulary | None) -> list[str]:
    """List console lines: what is unusual about the given vocabulary, and the symbols of the texts that it lacks."""
    if vocabulary is None:
        return []
    found = coverage([entry.text for entry in entries if not entry.problem], vocabulary)
    return list(found.lines("texts")) if found.is_unusual else []


def new_symbols(folder: Path, base: Vocabulary) -> list[str]:
    """List console lines: the symbols of vocab.txt that the base lacks."""
    new = read_vocabulary(folder / "vocab.txt").symbols[len(base) :]
    shown = ", ".join(map(repr, new[:MAX_SYMBOLS])) + (", ..." if len(new) > MAX_SYMBOLS else "")
    return [f"vocab.txt begins with the {len(base)} symbols of --base_vocab; {len(new)} are new: {shown or 'none'}"]


def next_steps(folder: Path, tokenizer: str, example: Entry, base: Vocabulary | None) -> Iterator[str]:
    """Yield console lines: how the data set is selected, and commands that check, train, evaluate and speak with it.

    Training starts from the model whose vocabulary `base` is: the published one, or one that the user has to name.
    """
    folder = folder.resolve()
    name, root = folder.name.removesuffix(f"_{tokenizer}"), folder.parent.parent
    is_found = folder.parent.name == "data" and name != folder.name
    if not is_found:
        yield f"training looks for data/NAME_{tokenizer}: move the folder there, and NAME below is its name"
    chosen = f"datasets.name={shlex.quote(name if is_found else 'NAME')} model.tokenizer={tokenizer}"
    run = f"ckpts/{shlex.quote(name if is_found else 'NAME')}"
    voice = f"-r {shlex.quote(example.audio)} -s {shlex.quote(example.text)} -t {shlex.quote(example.text)}"
    yield f"train with {chosen}; for example with the model {MODEL} (-cn or -m chooses another):"
    if is_found and root != Path.cwd():
        yield f"  cd {shlex.quote(str(root))}  # training looks for data/ where it is started"
    yield f"  f5-tts check-dataset {shlex.quote(str(folder))}"
    is_released = base is not None and base.symbols == read_vocabulary(EMILIA_VOCAB).symbols
    start = f" ckpts.init_from={PUBLISHED[MODEL] if is_released else 'CHECKPOINT'}" if base else ""
    yield f"  f5-tts train -cn {MODEL} {chosen} ckpts.save_dir={run}{start}"
    evaluated = f"eval.ckpt={run}/model_last.pt eval.list={shlex.quote(str(folder))} eval.out={run}/eval"
    yield f"  f5-tts evaluate -cn {MODEL} {chosen} {evaluated}  # or a list of other texts"
    yield f"  f5-tts infer -m {MODEL} -p {run}/model_last.pt {voice}"


def run(arguments: Namespace) -> bool:
    """Run the command; return False if it was interrupted."""
    folder, ending = arguments.folder, arguments.folder.resolve().name.rpartition("_")[2]
    tokenizer = arguments.tokenizer or (ending if ending in TOKENIZERS else "custom")
    kind, entries = read_entries(arguments.source, arguments.format)
    print(f"{arguments.source}, read as {kind}: {len(entries)} entries")
    columns = dict.fromkeys(name for entry in entries for name in entry.columns)
    print(f"  columns: recording, text{''.join(f', {name}' for name in columns)}")
    for entry in entries[:NUM_EXAMPLES]:
        print(f"  {entry.place}: {entry.problem or f'{Path(entry.audio).name}: {entry.text}'[:MAX_EXAMPLE_CHARS]}")
    base = base_vocabulary(arguments.base_vocab, folder, tokenizer) if arguments.base_vocab else None
    vocabulary = None if base else given_vocabulary(folder, tokenizer)
    entries = with_composed_texts(entries, base or vocabulary)
    for line in describe_changes(changes_of(entries)):
        print(line)
    worker = RowWorker(tokenizer, folder / "wavs" if arguments.copy else None, arguments.max_seconds)
    try:
        left_out = prepare(entries, folder, worker, arguments.workers, base)
    except KeyboardInterrupt:
        return False
    for line in summary(left_out):
        print(line)
    copied = f"was copied to {folder / 'wavs'}"
    audio = copied if arguments.copy else "stays where it is, named by absolute paths (--copy copies it)"
    print(f"{folder}: {len(entries) - len(left_out)} rows; the audio {audio}")
    for line in new_symbols(folder, base) if base else lacking_symbols(entries, vocabulary):
        print(line)
    for line in next_steps(folder, tokenizer, next(entry for entry in entries if not entry.problem), base):
        print(line)
    return True
