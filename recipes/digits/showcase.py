"""Renew what README.md and docs/quickstart.md show of a quick start: the picture, the clips, and the tables to paste.

`make showcase`, or `python -m recipes.digits.showcase`, after `make quickstart`. It writes docs/quickstart.png, which
is the picture of the report as Chromium draws it, and docs/audio, and prints the tables in Markdown.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import soundfile

from f5_tts.entrypoint import run_command
from f5_tts.eval.test_set import read_items
from f5_tts.report.players import Sentence, sentences_of
from f5_tts.report.render import write_picture
from f5_tts.report.sources import Sources
from f5_tts.report.table import Table, asr_title, compare
from recipes.digits.quickstart import HELD_OUT, JUDGE, RUN_DIR, SELECTING, describe_results, sources_of

PICTURE, AUDIO = Path("docs/quickstart.png"), Path("docs/audio")
CLIPS = {"base": "base.flac", "grpo": "stage_2_grpo.flac", "draft": "stage_2.flac"}  # file by title of the model
ITEMS = Path("data/mini_custom/test.jsonl")
SCALE = 2  # pixels of the picture for one of the page


def draw_png(sources: Sources, path: Path) -> None:
    """Draw the picture of the report as PNG, by Chromium.

    Raises FileNotFoundError if there is no Chromium.
    """
    browser = shutil.which("chromium")
    if browser is None:
        raise FileNotFoundError("no chromium on the PATH, which draws the picture: make test-browser installs it")
    with tempfile.TemporaryDirectory() as folder:
        drawing, picture = Path(folder) / "run.svg", Path(folder) / "run.png"
        write_picture(sources, drawing)
        size = re.search(r'width="(\d+)" height="(\d+)"', drawing.read_text(encoding="utf-8"))
        assert size is not None
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--force-device-scale-factor={SCALE}",
        ]
        flags += [f"--window-size={size[1]},{size[2]}", f"--screenshot={picture}"]
        subprocess.run([browser, *flags, drawing.as_uri()], check=True, capture_output=True)
        shutil.copyfile(picture, path)


def improved(sentence: Sentence) -> int:
    """Return by how many words, as the judge hears them, the last model is better than the first."""
    return sentence.versions[0].errors - sentence.versions[-1].errors


def write_clips(sentence: Sentence, folder: Path) -> None:
    """Write the clips of all models as FLAC files."""
    for version in sentence.versions:
        samples, rate = soundfile.read(version.path)
        soundfile.write(folder / CLIPS[version.title], samples, rate, subtype="PCM_16")


def clips_table(sentence: Sentence, sources: Sources) -> Table:
    """Build the table of the clips of a sentence, for docs/quickstart.md."""
    first = sources.evaluations[0].result
    rows = []
    for evaluation in sources.evaluations:
        file = f"audio/{CLIPS[evaluation.title]}"
        title = "base model" if evaluation.title == "base" else f"after `{evaluation.title}`"
        heard = [
            next(score.hypothesis for score in evaluation.result.scores[asr] if score.id == sentence.id)
            for asr in (JUDGE, SELECTING)
        ]
        rows.append([f"[{title}]({file})", f'<audio controls src="{file}"></audio>', *heard])
    header = ["clip", "", *(f"{asr_title(first, asr)} transcribes" for asr in (JUDGE, SELECTING))]
    return Table(caption=f'"{sentence.text}"', header=header, rows=rows)


def without_intervals(table: Table) -> Table:
    """Return a table of models without intervals, guidance and number of clips, for README.md."""
    kept = [place for place, title in enumerate(table.header) if title not in ("guidance", "clips")]
    rows = [[re.sub(r" \(.* to .*\)$", "", row[place]) for place in kept] for row in table.rows]
    return Table(caption="Without intervals", header=[table.header[place] for place in kept], rows=rows)


def describe_sentences(sentences: Sequence[Sentence]) -> str:
    """List the sentences, the most improved one first, with the words that the judge got wrong for each model."""
    lines = [
        f"{sentence.id}: {sentence.text}: wrong words "
        + ", ".join(f"{version.title} {version.errors}" for version in sentence.versions)
        for sentence in sentences
    ]
    return "\n".join(["Sentences to choose from (--item), most improved first:", *lines])


def showcase(run_dir: Path, picture: Path, audio: Path, item: str | None) -> str:
    """Write picture and clips; return the text for README.md and docs/quickstart.md."""
    sources = sources_of(run_dir)
    sentences = sorted(sentences_of(sources.evaluations, JUDGE), key=improved, reverse=True)
    chosen = next((sentence for sentence in sentences if item in (None, sentence.id)), None)
    if chosen is None:
        raise ValueError(f"--item {item}: no clip of it in {run_dir}; found {', '.join(s.id for s in sentences)}")
    draw_png(sources, picture)
    write_clips(chosen, audio)
    prompt = next(str(known.prompt_audio) for known in read_items(ITEMS) if known.id == chosen.id)
    results = {found.title: found.result for found in sources.evaluations}
    parts = [
        describe_results(sources),
        without_intervals(compare(results, HELD_OUT)).markdown(),
        clips_table(chosen, sources).markdown(),
        f"The prompt: {prompt}",
        describe_sentences(sentences),
    ]
    return "\n\n".join(parts)


def main(argv: list[str]) -> bool:
    """Run the command."""
    parser = ArgumentParser(prog="python -m recipes.digits.showcase", description=__doc__)
    parser.add_argument("run_dir", type=Path, nargs="?", default=RUN_DIR, help=f"default: {RUN_DIR}")
    parser.add_argument("--item", help="id of the sentence whose clips are shown; default: the most improved one")
    arguments = parser.parse_args(argv)
    print(showcase(arguments.run_dir, PICTURE, AUDIO, arguments.item))
    print(f"\nwrote {PICTURE} and {', '.join(str(AUDIO / name) for name in CLIPS.values())}")
    return True


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
