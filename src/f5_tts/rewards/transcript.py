"""Error rate of a transcript, and the reward made of it (pure)."""

from __future__ import annotations

import unicodedata

from rapidfuzz.distance import Levenshtein

APOSTROPHES = str.maketrans("", "", "'’")


def normalise(text: str) -> str:
    """Text as it is compared: NFKC, lower case, one space between words, no punctuation or symbols.

    An apostrophe joins its neighbours ("don't" is one word); any other mark separates them.
    """
    plain = unicodedata.normalize("NFKC", text).lower().translate(APOSTROPHES)
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PS" else c for c in plain).split())


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Fewest word edits that turn one text into the other, and the words of the reference."""
    want, got = normalise(reference).split(), normalise(hypothesis).split()
    return Levenshtein.distance(want, got), len(want)


def accuracy(reference: str, hypothesis: str) -> float:
    """One for a perfect transcript, less one share per edit, never below zero.

    Of a reference without words only an empty transcript is right.
    """
    edits, words = word_errors(reference, hypothesis)
    return 1.0 - min(1.0, edits / max(words, 1))
