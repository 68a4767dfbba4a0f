from __future__ import annotations

import pytest

from f5_tts.rewards.transcript import accuracy, normalise, word_errors, word_scores


@pytest.mark.parametrize(
    "text, compared",
    [
        ("  Three,\tONE four! ", "three one four"),
        ("Don’t stop", "dont stop"),
        ("twenty-one", "twenty one"),
        ("ｆｉｖｅ ½", "five 1 2"),  # full-width letters and a fraction, made plain by NFKC
        ("...", ""),
    ],
)
def test_case_marks_spacing_and_compatibility_forms_do_not_count(text, compared):
    assert normalise(text) == compared


@pytest.mark.parametrize(
    "hypothesis, edits",
    [
        ("three one four", 0),
        ("three four", 1),  # one word missing
        ("three nine four", 1),  # one word replaced
        ("oh three one one four", 2),  # two words too many
        ("", 3),
    ],
)
def test_edits_are_counted_in_whole_words(hypothesis, edits):
    assert word_errors("Three, one, four.", hypothesis) == (edits, 3)


def test_accuracy_loses_a_share_per_edit_and_stops_at_zero():
    heard = ["one two three four", "one two three", "one two", "nine nine nine nine nine nine nine"]
    assert [accuracy("one two three four", text) for text in heard] == [1.0, 0.75, 0.5, 0.0]


def test_of_a_reference_without_words_only_silence_is_right():
    assert (accuracy("?", ""), accuracy("?", "one")) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("heard", "scores"),
    [
        ("one two three", [1, 1, 1]),
        ("one three", [1, 0, 1]),
        ("one four three", [1, 0, 1]),
        ("one two nine three", [1, 0.5, 0.5]),
        ("nine one two three", [0, 1, 1]),
        ("one two three nine nine", [1, 1, -1]),
        ("nine nine nine", [0, 0, 0]),
        ("", [0, 0, 0]),
    ],
)
def test_each_word_earns_what_was_heard_of_it_and_their_mean_is_one_less_the_error_rate(heard, scores):
    assert word_scores("one two three", heard) == scores
    edits, words = word_errors("one two three", heard)
    assert sum(scores) / 3 == pytest.approx(1 - edits / words)


def test_a_text_without_words_earns_nothing():
    assert word_scores("...", "one") == []
