"""Error rate of a transcript, and how texts are compared (pure)."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from rapidfuzz.distance import Levenshtein

from f5_tts.rewards.asr.number_words import spell_out

APOSTROPHES = str.maketrans("", "", "'’")
KANA, HAN, HANGUL = "\u3040-\u30ff", "\u3005-\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff", "\uac00-\ud7a3"
WORD = re.compile(f"[{KANA}{HAN}]|[^\\s{KANA}{HAN}]+")
DIGIT_VARIANTS = str.maketrans("两兩〇幺", "二二零一")  # other ways to say or write a digit in Chinese


def normalize(text: str) -> str:
    """Text as it is compared: NFKC, lower case, one space between words, no punctuation or symbols.

    An apostrophe joins its neighbours ("don't" is one word); any other mark separates them.
    """
    lowered = unicodedata.normalize("NFKC", text).lower().translate(APOSTROPHES)
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PSC" else c for c in lowered).split())


def language_of(text: str) -> str:
    """The language that its script suggests: ja where there are kana, ko for Hangul, zh for other Han, else en."""
    scripts = {"ja": KANA, "ko": HANGUL, "zh": HAN}
    return next((language for language, letters in scripts.items() if re.search(f"[{letters}]", text)), "en")


def tokens(text: str, language: str, unit: str) -> list[str]:
    """What is compared of a text: its characters without spaces (unit "char"), or its words.

    Numbers are spelled out in `language`. Of Chinese and Japanese writing each character is a word, whatever stands
    around it; Latin words among them stay words.
    """
    reading_language = "zh" if language == "yue" else language
    normalized = normalize(spell_out(unicodedata.normalize("NFKC", text).lower(), reading_language))
    if reading_language == "zh":
        normalized = normalized.translate(DIGIT_VARIANTS)
    return list(normalized.replace(" ", "")) if unit == "char" else WORD.findall(normalized)


def error_rates(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[float, float, float]:
    """Symbols inserted, left out and taken for another in the fewest edits that turn one list into the other, each per
    symbol of the reference; their sum is the error rate, which may pass 1.

    Of a reference without symbols each symbol that was heard is an error.
    """
    kinds = Counter(edit.tag for edit in Levenshtein.editops(reference, hypothesis))
    inserted, deleted, substituted = (kinds[tag] / max(len(reference), 1) for tag in ("insert", "delete", "replace"))
    return inserted, deleted, substituted


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Fewest word edits that turn one text into the other, and the words of the reference."""
    expected, actual = normalize(reference).split(), normalize(hypothesis).split()
    return Levenshtein.distance(expected, actual), len(expected)


def char_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """The same of characters, spaces aside."""
    expected, actual = (normalize(text).replace(" ", "") for text in (reference, hypothesis))
    return Levenshtein.distance(expected, actual), len(expected)


def has_repetition(reference: str, hypothesis: str) -> bool:
    """Whether some words (one, or several together) are heard more often in a row than they stand in a row in the text.

    Words that the text lacks stand there once at most: twice in a row is too often.
    """
    expected, actual = (WORD.findall(normalize(text)) for text in (reference, hypothesis))
    for size in range(1, len(actual) // 2 + 1):
        written = longest_runs(expected, size)
        if any(times > max(1, written.get(words, 0)) for words, times in longest_runs(actual, size).items()):
            return True
    return False


def longest_runs(words: Sequence[str], size: int) -> dict[tuple[str, ...], int]:
    """How often each `size` neighbours follow themselves at most, the first time counted."""
    ngrams = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    times = [1] * len(ngrams)
    longest: dict[tuple[str, ...], int] = {}
    for start in reversed(range(len(ngrams))):
        if start + size < len(ngrams) and ngrams[start] == ngrams[start + size]:
            times[start] = times[start + size] + 1
        longest[ngrams[start]] = max(longest.get(ngrams[start], 1), times[start])
    return longest


def has_prompt_leak(prompt: str, reference: str, hypothesis: str) -> bool:
    """Whether, before the first word of the text, a word is heard that the prompt has and the text has not."""
    prompt_words, expected, actual = (WORD.findall(normalize(text)) for text in (prompt, reference, hypothesis))
    return not set(prompt_words).isdisjoint(takewhile(lambda word: word not in expected, actual))


def word_scores(reference: str, hypothesis: str) -> list[float]:
    """What each word of the reference earns: 1 if heard in its place, 0 if missed or taken for another.

    An inserted word costs its two neighbours a half each, at an end its only neighbour all; the mean is therefore
    1 - error rate.
    """
    expected, actual = normalize(reference).split(), normalize(hypothesis).split()
    scores = [1.0] * len(expected)
    for edit in Levenshtein.opcodes(expected, actual):
        if edit.tag == "insert":
            neighbors = [k for k in (edit.src_start - 1, edit.src_start) if 0 <= k < len(expected)]
            for k in neighbors:
                scores[k] -= (edit.dest_end - edit.dest_start) / len(neighbors)
        elif edit.tag != "equal":
            for k in range(edit.src_start, edit.src_end):
                scores[k] -= 1.0
    return scores
