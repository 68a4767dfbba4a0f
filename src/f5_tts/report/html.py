"""HTML report with audio: the same prompts before and after training, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from rapidfuzz.distance import Levenshtein

from f5_tts.data.texts import normalize
from f5_tts.files import write_atomically
from f5_tts.report.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Sample of one model for a text."""

    model: str
    audio: Path
    transcript: str  # transcript by the recognizer
    similarity: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ListenRow:
    """Text, prompt, and the samples of all models."""

    text: str
    prompt_audio: Path
    prompt_text: str
    samples: Sequence[Sample]  # the same models in each row, in column order


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Results table, what it shows in sentences, and the plot, above the samples."""

    table: Table
    changes: Sequence[str]
    picture: Path


def write_page(rows: Sequence[ListenRow], path: str | Path, results: Results) -> None:
    """Write one HTML file, which refers to audio and plot by relative paths and needs nothing else."""
    path = Path(path)
    content = PAGE.format(
        style=STYLE,
        caption=escape(f"{results.table.caption}:"),
        results=results_html(results.table),
        changes="\n".join(f"<p>{escape(change)}</p>" for change in results.changes),
        picture=link(results.picture, path.parent),
        listen=listen_html(rows, path.parent),
    )
    write_atomically(path, lambda tmp_path: tmp_path.write_text(content, encoding="utf-8"))


def results_html(table: Table) -> str:
    """Render the results table."""
    body = "\n".join(table_row("td", row) for row in table.rows)
    return f"<thead>{table_row('th', table.header)}</thead>\n<tbody>\n{body}\n</tbody>"


def table_row(tag: str, cells: Sequence[str]) -> str:
    """Render one table row of escaped cells."""
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def listen_html(rows: Sequence[ListenRow], folder: Path) -> str:
    """Render a table of audio players; raise ValueError if there are no rows or their models differ."""
    if not rows:
        raise ValueError("an HTML report needs at least one row, found none")
    models = [sample.model for sample in rows[0].samples]
    for row in rows:
        if [sample.model for sample in row.samples] != models:
            raise ValueError(
                f"samples of {row.text!r} are by {[sample.model for sample in row.samples]}; the first row's by "
                f"{models}"
            )
    head = table_row("th", ["text", "prompt", *models])
    body = "\n".join(listen_row(row, folder) for row in rows)
    return f"<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>"


def listen_row(row: ListenRow, folder: Path) -> str:
    """Render one prompt and the samples of all models, with wrong words marked."""
    prompt = f"{player(row.prompt_audio, folder)}<p>{escape(row.prompt_text)}</p>"
    cells_html = [
        f"{player(sample.audio, folder)}<p>{highlight_errors(row.text, sample.transcript)}</p>"
        f"<small>similarity {sample.similarity:.2f}</small>"
        for sample in row.samples
    ]
    cells = "".join(f"<td>{cell}</td>" for cell in (prompt, *cells_html))
    return f'<tr><th scope="row">{escape(row.text)}</th>{cells}</tr>'


def player(audio: Path, folder: Path) -> str:
    """Render an audio player."""
    return f'<audio controls preload="none" src="{link(audio, folder)}"></audio>'


def link(target: Path, folder: Path) -> str:
    """Return the URL of a file relative to the page."""
    return escape(quote(Path(os.path.relpath(target, folder)).as_posix()))


def highlight_errors(text: str, transcript: str) -> str:
    """Render a transcript with its errors marked and missing words struck out."""
    expected, actual = normalize(text).split(), normalize(transcript).split()
    pieces = []
    for edit in Levenshtein.opcodes(expected, actual):
        words = actual[edit.dest_start : edit.dest_end] or expected[edit.src_start : edit.src_end]
        pieces += [MARKS[edit.tag].format(escape(word)) for word in words]
    return " ".join(pieces)


MARKS = {
    "equal": "{}",
    "replace": "<mark>{}</mark>",
    "insert": "<mark>{}</mark>",
    "delete": "<mark><del>{}</del></mark>",
}

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --paper: #fff; --line: #d8d8dc; --soft: #f5f5f7; --wrong: #ffd9cc; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --paper: #161618; --line: #3a3a3f; --soft: #222226; --wrong: #7a3320; }
}
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; } h2 { margin-top: 2.5rem; font-size: 1.15rem; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .5rem .75rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--soft); white-space: nowrap; }
td p { margin: .3rem 0 0; }
audio { width: 13rem; height: 2.2rem; }
mark { padding: 0 .2em; border-radius: .2em; color: inherit; background: var(--wrong); }
small { opacity: .7; }
img { max-width: 100%; border-radius: .4rem; background: #fff; }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Before and after reinforcement learning</title>
<style>{style}</style>
</head>
<body>
<h1>Before and after reinforcement learning</h1>
<p>A small text-to-speech model takes a prompt and synthesizes other digits in the prompt&rsquo;s voice. It was never
trained on these digit strings. Below: how well that went before and after training by reinforcement, once for each
algorithm, then the clips themselves. All models start from the same noise.</p>
<h2>Results</h2>
<p>{caption}</p>
<div class="wide"><table>
{results}
</table></div>
{changes}
<h2>The runs</h2>
<p><img src="{picture}" alt="Reward, error rate, similarity and KL over the updates of each algorithm"></p>
<h2>Listen</h2>
<p>Under each clip: the ASR transcript, <mark>marked</mark> where it is another word than the text&rsquo;s and
<mark><del>struck out</del></mark> where a word is missing; and how similar the voice is to the prompt&rsquo;s
(1 is the same).</p>
<div class="wide"><table>
{listen}
</table></div>
</body>
</html>
"""
