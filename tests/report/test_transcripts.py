from __future__ import annotations

import pytest

from f5_tts.report.transcripts import mark_errors


@pytest.mark.parametrize(
    "text, heard, shown",
    [
        ("one two", "one two", "one two"),
        ("one two", "one ten", 'one <mark title="another word">ten</mark>'),
        ("one two", "one two <b>", 'one two <mark title="not in the text">&lt;b&gt;</mark>'),
        ("one two three", "one three", 'one <mark title="missing"><del>two</del></mark> three'),
        ("one", "", '<mark title="missing"><del>one</del></mark>'),
        ("今天", "今", '今 <mark title="missing"><del>天</del></mark>'),
    ],
)
def test_words_that_are_wrong_too_many_or_missing_are_marked(text: str, heard: str, shown: str):
    assert mark_errors(text, heard) == shown
