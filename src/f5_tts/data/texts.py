"""Texts of rows: their words, and why a text cannot be trained on."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from f5_tts.data.rows import Row

APOSTROPHES = str.maketrans("", "", "'’")


def normalize(text: str) -> str:
    """Normalize a text for comparison: NFKC, lower case, single spaces, no punctuation or symbols.

    An apostrophe joins its neighbors ("don't" is one word); any other mark separates them.
    """
    lowered = unicodedata.normalize("NFKC", text).lower().translate(APOSTROPHES)
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PSC" else c for c in lowered).split())


def word_prefixes(text: str) -> list[str]:
    """Return for each word of `normalize(text)` the text up to its end, with the marks after it, in lower case."""
    lowered = unicodedata.normalize("NFKC", text).lower()
    kinds = ("'" if c in "'’" else " " if c.isspace() or unicodedata.category(c)[0] in "PSC" else "a" for c in lowered)
    starts = [match.start() for match in re.finditer("'*a[a']*", "".join(kinds))]
    return [lowered[:end] for end in [*starts[1:], len(lowered)][: len(starts)]]


@dataclass(frozen=True, slots=True)
class TextRules:
    """What the text of a row needs, so that a run can train on it."""

    needs_words: bool = False  # a reward compares words; punctuation, emoji and white space are none

    def problem(self, row: Row) -> tuple[str, str] | None:
        """Return the kind and the reason of what is wrong with a row's text, or None."""
        if not "".join(row.text).strip():
            return "no text", f"{row.audio_path} has no text"
        if self.needs_words and not normalize(row.sentence):
            return "no word", f"the text of {row.audio_path} has no word that a reward could compare: {row.sentence!r}"
        return None
