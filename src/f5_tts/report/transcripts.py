"""Transcripts with their errors marked."""

from __future__ import annotations

from markupsafe import Markup
from rapidfuzz.distance import Levenshtein

from f5_tts.rewards.asr.normal_form import words_of

MARKS = {
    "equal": "{}",
    "replace": '<mark title="another word">{}</mark>',
    "insert": '<mark title="not in the text">{}</mark>',
    "delete": '<mark title="missing"><del>{}</del></mark>',
}


def mark_errors(text: str, transcript: str) -> Markup:
    """Mark words that are not the text's, and strike out those that are missing; both texts are in normal form."""
    expected, actual = words_of(text), words_of(transcript)
    pieces = []
    for edit in Levenshtein.opcodes(expected, actual):
        words = actual[edit.dest_start : edit.dest_end] or expected[edit.src_start : edit.src_end]
        pieces += [Markup(MARKS[edit.tag]).format(word) for word in words]
    return Markup(" ").join(pieces)
