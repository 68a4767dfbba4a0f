"""Texts of rows: their words, the symbols that a vocabulary lacks, and why a text cannot be trained on."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from f5_tts.data.rows import Row
from f5_tts.data.tokenizer import Vocabulary

NUM_SHOWN = 20  # unknown symbols that are listed
NUM_EXAMPLES = 3  # texts with unknown symbols that are shown
MAX_EXAMPLE_CHARS = 60
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

    vocabulary: Vocabulary | None = None  # a text needs one of its symbols; white space is none
    needs_words: bool = False  # a reward compares words; punctuation, emoji and white space are none

    def problem(self, row: Row) -> tuple[str, str] | None:
        """Return the kind and the reason of what is wrong with a row's text, or None."""
        if not "".join(row.text).strip():
            return "no text", f"{row.audio_path} has no text"
        if self.needs_words and not normalize(row.sentence):
            return "no word", f"the text of {row.audio_path} has no word that a reward could compare: {row.sentence!r}"
        if self.vocabulary is not None and not self.vocabulary.knows(row.text):
            return "no known symbol", f"the vocabulary has no symbol of the text of {row.audio_path}: {row.sentence!r}"
        return None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Symbols of texts that a vocabulary lacks."""

    vocabulary: Vocabulary
    counts: Counter[str]  # texts by symbol
    num_texts: int  # texts with such a symbol
    examples: list[str]  # some of them
    num_composed: int  # texts whose letters are read in another Unicode form than they are written in

    @property
    def is_unusual(self) -> bool:
        """Check whether there is more to say than that every symbol is known."""
        return bool(self.counts or self.num_composed or self.vocabulary.notes)

    def lines(self, unit: str = "rows") -> Iterator[str]:
        """Yield console lines: what is unusual about the vocabulary, and the symbols that it lacks."""
        yield from (f"vocabulary: {note}" for note in self.vocabulary.notes)
        if self.num_composed:
            form = "have letters with marks in another Unicode form: they are read as the vocabulary has them"
            yield f"{self.num_composed} {unit} {form}"
        if not self.counts:
            yield f"the vocabulary ({len(self.vocabulary)} symbols) has every symbol of the texts"
            return
        read_as = "spaces" if self.vocabulary.starts_with_space else repr(self.vocabulary.symbols[0])
        where = f"of {self.num_texts} {unit}"
        yield f"the vocabulary lacks {len(self.counts)} symbols, {where}; a model reads them as {read_as}:"
        more = f", and {len(self.counts) - NUM_SHOWN} more" if len(self.counts) > NUM_SHOWN else ""
        yield "  " + ", ".join(f"{symbol!r} in {num}" for symbol, num in self.counts.most_common(NUM_SHOWN)) + more
        yield f"  for example: {', '.join(map(repr, self.examples))}"
        if any(unicodedata.category(symbol[:1] or " ")[0] == "M" for symbol in self.counts):
            yield "  marks of letters are among them: write the letters of the vocabulary composed (NFC)"


def coverage(texts: Sequence[str | Sequence[str]], vocabulary: Vocabulary) -> Coverage:
    """Find the symbols of the texts that the vocabulary lacks, with the number of texts that have each."""
    counts, lacking = Counter[str](), list[str]()
    num_composed = sum(isinstance(text, str) and vocabulary.compose(text) != text for text in texts)
    for text in texts:
        if missing := vocabulary.unknown([text]):
            counts.update(missing)
            lacking.append("".join(text)[:MAX_EXAMPLE_CHARS])
    return Coverage(vocabulary, counts, len(lacking), list(dict.fromkeys(lacking))[:NUM_EXAMPLES], num_composed)
