"""Check a data set: decode every row, report bad rows and totals, and list the symbols that a vocabulary lacks."""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("check-dataset")

import json
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean

from f5_tts.data.quality import bad_rows, odd_recordings, scan_row, speaking_rate_outliers
from f5_tts.data.rows import Row, read_hub, read_rows
from f5_tts.data.scan import map_in_processes
from f5_tts.data.texts import TextRules, coverage
from f5_tts.data.tokenizer import EMILIA_VOCAB, TOKENIZERS, Vocabulary, read_vocabulary
from f5_tts.files import write_atomically
from f5_tts.plotting import new_figure
from f5_tts.scripts.prepare import CHANGED, describe_changes, read_report
from f5_tts.types import BadRow

MAX_SHOWN = 3  # rows of each kind on the console; the report lists all
HINTS = {
    "flat level": "perhaps noise or music alone, not counted as bad",
    "scaled": "used as they are meant, not counted as bad",
    "odd tempo": "worth a look, not counted as bad",
    "no word": "stage 1 trains on them; stage 2 leaves them out where a reward compares words",
}


# --- output ---


def by_kind(rows: Iterable[BadRow]) -> Iterator[str]:
    """Yield console lines: the number of bad rows of each kind, and the first few."""
    kinds: dict[str, list[BadRow]] = defaultdict(list)
    for row in rows:
        kinds[row.kind].append(row)
    for kind, rows_of_kind in sorted(kinds.items()):
        hint = f" ({HINTS[kind]})" if kind in HINTS else ""
        yield f"{len(rows_of_kind)} {kind}{hint}:"
        yield from (f"  row {row.index}: {row.path}: {row.reason}" for row in rows_of_kind[:MAX_SHOWN])
        if len(rows_of_kind) > MAX_SHOWN:
            yield f"  and {len(rows_of_kind) - MAX_SHOWN} more"


def totals(rows: Sequence[Row], seconds: Sequence[float]) -> str:
    """Describe the rows whose audio can be decoded: their number, speakers and durations."""
    if not seconds:
        return f"{len(rows)} rows, none of which can be decoded"
    speakers = len({row.speaker for row in rows} - {None}) or "unknown"
    return (
        f"{len(rows)} rows, speakers: {speakers}, {sum(seconds) / 3600:.2f} hours; a row lasts {fmean(seconds):.2f} s "
        f"on average, {min(seconds):.2f} to {max(seconds):.2f} s"
    )


def draw_durations(seconds: Sequence[float], title: str, path: Path) -> None:
    """Plot a histogram of the durations (s) and save it as a PNG file."""
    figure = new_figure(6.0, 3.2)
    axes = figure.subplots()
    axes.hist(seconds, bins=40, color="#1f5f99")
    axes.set_xlabel("seconds")
    axes.set_ylabel("rows")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    write_atomically(path, lambda tmp_path: figure.savefig(tmp_path, format="png"))


def write_report(rows: Iterable[BadRow], path: Path) -> None:
    """Write the rows as JSON, one per line."""
    lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, lambda tmp_path: tmp_path.write_text(lines, encoding="utf-8"))


def vocabulary_of(arguments: Namespace) -> Vocabulary | None:
    """Load the vocabulary from --vocab, else from the data set's own vocab.txt, else for pinyin the released one.

    Returns None if there is none. A data set of the hub has no own one, and no name that ends with a tokenizer.
    """
    folder = arguments.folder if isinstance(arguments.folder, Path) else None
    suffix = folder.resolve().name.rpartition("_")[2] if folder else ""
    tokenizer = arguments.tokenizer or (suffix if suffix in TOKENIZERS else "custom")
    released = EMILIA_VOCAB if tokenizer == "pinyin" else None  # as in training
    own = folder / "vocab.txt" if folder and (folder / "vocab.txt").is_file() else None
    path = arguments.vocab or own or released
    return read_vocabulary(path, tokenizer) if path else None


def run(arguments: Namespace) -> bool:
    """Run the command: print and write the report, and exit with code 1 if rows are bad."""
    name, vocabulary = arguments.folder, vocabulary_of(arguments)
    rows = read_hub(name) if isinstance(name, str) else read_rows(name)
    scan_one = partial(scan_row, max_seconds=arguments.max_seconds, rules=TextRules(vocabulary, needs_words=True))
    scans = list(map_in_processes(scan_one, rows, arguments.workers, "decoding"))
    seconds = [scan.seconds for scan in scans if scan.seconds is not None]
    bad, outliers = list(bad_rows(rows, scans)), [*speaking_rate_outliers(rows, scans), *odd_recordings(rows, scans)]
    report = arguments.report or (Path() if isinstance(name, str) else name) / "check.jsonl"
    write_report([*bad, *outliers], report)
    if arguments.plot and seconds:
        draw_durations(seconds, str(arguments.folder), arguments.plot)
    print(f"{arguments.folder}: {totals(rows, seconds)}")
    changed = {} if isinstance(name, str) else read_report(name)[0].get(CHANGED, {})
    for line in [
        *(f"when they were prepared, {line}" for line in describe_changes(changed)),
        *by_kind([*bad, *outliers]),
        *(coverage([row.text for row in rows], vocabulary).lines() if vocabulary else []),
    ]:
        print(line)
    advice = "repair or remove them" if bad else "next: f5-tts train, or f5-tts doctor before it"
    print(f"{len(bad)} of {len(rows)} rows are bad; wrote {report} with every finding; {advice}")
    if bad:
        sys.exit(1)
    return True
