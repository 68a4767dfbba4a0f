"""Tokens and error rate of transcripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from rapidfuzz.distance import Levenshtein

from f5_tts.data.texts import normalize
from f5_tts.rewards.asr.normal_form import WORD, normal_form, words_of


def tokens(text: str, language: str, unit: str) -> list[str]:
    """Split a text into the tokens that are compared: words, or characters without spaces (unit "char").

    They are those of its normal form in `language`. Each character of a script without spaces is a word; Latin words
    among them stay words.
    """
    normal = normal_form(text, language)
    return list(normal.replace(" ", "")) if unit == "char" else words_of(normal)


def error_rates(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[float, float, float]:
    """Return insertions, deletions and substitutions of the shortest edit, each per token of the reference.

    Their sum is the error rate, which can be above 1. With an empty reference, each token of the hypothesis counts as
    one error.
    """
    kinds = Counter(edit.tag for edit in Levenshtein.editops(reference, hypothesis))
    inserted, deleted, substituted = (kinds[tag] / max(len(reference), 1) for tag in ("insert", "delete", "replace"))
    return inserted, deleted, substituted


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Return the word edit distance of two texts and the number of words in the reference.

    Each character of a script without spaces is a word.
    """
    expected, actual = words_of(normalize(reference)), words_of(normalize(hypothesis))
    return Levenshtein.distance(expected, actual), len(expected)


def char_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Return the character edit distance of two texts without spaces, and the characters of the reference."""
    expected, actual = (normalize(text).replace(" ", "") for text in (reference, hypothesis))
    return Levenshtein.distance(expected, actual), len(expected)


def has_repetition(reference: str, hypothesis: str) -> bool:
    """Check whether words are repeated in a row more often than in the reference.

    The repeated unit is one word or several. A unit that is not in the reference may occur once; twice in a row is a
    repetition.
    """
    expected, actual = (WORD.findall(normalize(text)) for text in (reference, hypothesis))
    for size in range(1, len(actual) // 2 + 1):
        written = longest_runs(expected, size)
        if any(times > max(1, written.get(words, 0)) for words, times in longest_runs(actual, size).items()):
            return True
    return False


def longest_runs(words: Sequence[str], size: int) -> dict[tuple[str, ...], int]:
    """Count for each run of `size` words how often it repeats in a row at most, the first occurrence included."""
    ngrams = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
    times = [1] * len(ngrams)
    longest: dict[tuple[str, ...], int] = {}
    for start in reversed(range(len(ngrams))):
        if start + size < len(ngrams) and ngrams[start] == ngrams[start + size]:
            times[start] = times[start + size] + 1
        longest[ngrams[start]] = max(longest.get(ngrams[start], 1), times[start])
    return longest


def has_prompt_leak(prompt: str, reference: str, hypothesis: str) -> bool:
    """Check whether the transcript begins with words of the prompt.

    That is the case if, before the first word of the text, there is a word of the prompt that the text does not have.
    """
    prompt_words, expected, actual = (WORD.findall(normalize(text)) for text in (prompt, reference, hypothesis))
    return not set(prompt_words).isdisjoint(takewhile(lambda word: word not in expected, actual))


def word_scores(reference: str, hypothesis: str) -> list[float]:
    """Score each word of the reference: 1 if correct, 0 if deleted or substituted.

    An inserted word costs its two neighbors 0.5 each, or its only neighbor 1, so the mean is 1 - error rate.
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
