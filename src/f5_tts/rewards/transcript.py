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


def word_scores(reference: str, hypothesis: str) -> list[float]:
    """What each word of the reference earns: 1 if heard in its place, 0 if missed or taken for another.

    An inserted word costs its two neighbours a half each, at an end its only neighbour all; the mean is therefore
    1 - error rate.
    """
    want, got = normalise(reference).split(), normalise(hypothesis).split()
    scores = [1.0] * len(want)
    for edit in Levenshtein.opcodes(want, got):
        if edit.tag == "insert":
            beside = [k for k in (edit.src_start - 1, edit.src_start) if 0 <= k < len(want)]
            for k in beside:
                scores[k] -= (edit.dest_end - edit.dest_start) / len(beside)
        elif edit.tag != "equal":
            for k in range(edit.src_start, edit.src_end):
                scores[k] -= 1.0
    return scores


def accuracy(reference: str, hypothesis: str) -> float:
    """One for a perfect transcript, less one share per edit, never below zero.

    Of a reference without words only an empty transcript is right.
    """
    edits, words = word_errors(reference, hypothesis)
    return 1.0 - min(1.0, edits / max(words, 1))
