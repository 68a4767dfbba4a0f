from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from f5_tts.report.html import ListenRow, Results, Sample, highlight_errors, write_page
from f5_tts.report.table import Table

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Parser that collects links, text and tags, and checks that every tag is closed by its own."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def take(model: str, audio: Path, heard: str = "one two") -> Sample:
    return Sample(model=model, audio=audio, transcript=heard, similarity=0.8125)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    rows = [["a <base> & more", "25.0 % (20.0 to 30.0)"]]
    table = Table(caption="Held-out digit strings", header=["model", "error rate by Whisper"], rows=rows)
    return Results(table=table, changes=["It fell by 10 & 20 %."], picture=tmp_path / "run.png")


def written(tmp_path: Path, results: Results, *rows: ListenRow) -> Reader:
    write_page(rows, tmp_path / "out" / "index.html", results)
    return Reader((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))


def listen_row(tmp_path: Path, text: str = "one two") -> ListenRow:
    takes = [take("base", tmp_path / "out" / "base 1.wav"), take("stage 2", tmp_path / "out" / "stage2" / "1.wav")]
    return ListenRow(text=text, prompt_audio=tmp_path / "data" / "p.flac", prompt_text="nine", samples=takes)


def test_links_lead_from_the_page_to_the_files_and_nowhere_else(tmp_path: Path, results: Results):
    page = written(tmp_path, results, listen_row(tmp_path))
    assert [unquote(link) for link in page.links] == ["../run.png", "../data/p.flac", "base 1.wav", "stage2/1.wav"]
    assert "base%201.wav" in page.links
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_every_row_holds_the_prompt_and_one_player_per_model(tmp_path: Path, results: Results):
    page = written(tmp_path, results, *[listen_row(tmp_path)] * 8)
    assert page.tags.count("audio") == 8 * 3
    assert "similarity 0.81" in page.words and "stage 2" in page.words


def test_text_is_shown_as_text_and_never_as_markup(tmp_path: Path, results: Results):
    page = written(tmp_path, results, listen_row(tmp_path, text='<script>"x" & y</script>'))
    assert '<script>"x" & y</script>' in page.words
    assert "a <base> & more" in page.words
    assert "script" not in page.tags


def test_the_page_says_who_measured_and_what_changed(tmp_path: Path, results: Results):
    page = written(tmp_path, results, listen_row(tmp_path))
    assert {"Held-out digit strings:", "error rate by Whisper", "25.0 % (20.0 to 30.0)"} <= set(page.words)
    assert "It fell by 10 & 20 %." in page.words


@pytest.mark.parametrize(
    "text, heard, shown",
    [
        ("one two", "One, two.", "one two"),
        ("one two", "one ten", "one <mark>ten</mark>"),
        ("one two", "one two <b>", "one two <mark>b</mark>"),
        ("one two three", "one three", "one <mark><del>two</del></mark> three"),
        ("one", "", "<mark><del>one</del></mark>"),
    ],
)
def test_words_that_are_wrong_too_many_or_missing_are_marked(text: str, heard: str, shown: str):
    assert highlight_errors(text, heard) == shown


def test_rows_by_other_models_than_the_first_are_refused(tmp_path: Path, results: Results):
    other = ListenRow(
        text="six", prompt_audio=tmp_path / "p", prompt_text="nine", samples=[take("base", tmp_path / "w")]
    )
    with pytest.raises(
        ValueError, match=r"samples of 'six' are by \['base'\]; the first row's by \['base', 'stage 2'\]"
    ):
        written(tmp_path, results, listen_row(tmp_path), other)


def test_a_page_without_rows_is_refused(tmp_path: Path, results: Results):
    with pytest.raises(ValueError, match="at least one row"):
        written(tmp_path, results)
