from __future__ import annotations

import pytest

from f5_tts.data.rows import Row
from f5_tts.data.texts import TextRules, coverage, normalize, word_prefixes
from f5_tts.data.tokenizer import Vocabulary


def row_of(text: str | list[str], **columns: str) -> Row:
    return Row(audio_path="a.wav", text=text, duration=1.0, speaker=None, columns=columns)


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u3000", [], [" ", " "]])
def test_white_space_is_no_text(text):
    for rules in (TextRules(), TextRules(needs_words=True)):
        assert rules.problem(row_of(text)) == ("no text", "a.wav has no text")


@pytest.mark.parametrize("text", ["…", "?!", "...", "😀", "—", "''", "\u200b", " . ", ["?", " ", "!"]])
def test_marks_and_emoji_are_a_text_and_no_word(text):
    assert TextRules().problem(row_of(text)) is None
    problem = TextRules(needs_words=True).problem(row_of(text))
    assert problem is not None and problem[0] == "no word" and problem[1].startswith("the text of a.wav has no word")


@pytest.mark.parametrize("text", ["a", "don't", "3", "你", "हाँ", "…a", ["h", "i"]])
def test_letters_and_digits_of_any_script_are_words(text):
    assert TextRules(needs_words=True).problem(row_of(text)) is None


def test_words_are_looked_for_in_the_sentence_that_rewards_compare():
    symbols = [" ", "ni3"]
    assert TextRules(needs_words=True).problem(row_of(symbols, raw_text="你")) is None
    problem = TextRules(needs_words=True).problem(row_of(symbols, raw_text="。"))
    assert problem is not None and problem[0] == "no word"


@pytest.mark.parametrize(
    "text, prefixes",
    [
        ("  Three, ONE four! ", ["  three, ", "  three, one ", "  three, one four! "]),
        ("Don’t 'stop' -- ' now", ["don’t ", "don’t 'stop' -- ' ", "don’t 'stop' -- ' now"]),
        ("5.5 %", ["5.", "5.5 %"]),
        ("½", ["1⁄", "1⁄2"]),
        ("今天 气温。", ["今天 ", "今天 气温。"]),
        ("?!", []),
    ],
)
def test_prefixes_of_a_text_end_with_its_words(text, prefixes):
    assert word_prefixes(text) == prefixes
    assert [normalize(prefix) for prefix in prefixes] == [
        " ".join(normalize(text).split()[: index + 1]) for index in range(len(prefixes))
    ]
    assert len(prefixes) == len(normalize(text).split())


@pytest.mark.parametrize(
    "text, is_known",
    [
        ("one two", True),
        ("ONE TWO THREE", False),  # capitals against a vocabulary of small letters; the space alone is no text
        ("3 14", False),
        ("\u200b \u200d", False),
        (["A", " ", "o"], True),
        ([" ", "A"], False),
    ],
)
def test_a_text_needs_a_symbol_that_the_vocabulary_has(text, is_known):
    problem = TextRules(Vocabulary(" onetwhr")).problem(row_of(text))
    assert (problem is None) == is_known
    assert problem is None or problem[0] == "no known symbol"


def test_unknown_symbols_are_counted_by_text_with_examples():
    found = coverage(["ab", "a!", "a!?", "b?!", "ab!!"], Vocabulary(" ab"))
    assert list(found.lines()) == [
        "the vocabulary lacks 2 symbols, of 4 rows; a model reads them as spaces:",
        "  '!' in 4, '?' in 2",
        "  for example: 'a!', 'a!?', 'b?!'",
    ]
    assert list(coverage(["ab"], Vocabulary(" ab")).lines()) == [
        "the vocabulary (3 symbols) has every symbol of the texts"
    ]


def test_texts_that_are_read_in_another_unicode_form_are_counted():
    found = coverage(["e\u0301", "\u00e9", "e", [*"e\u0301"]], Vocabulary(" e\u00e9\u0301"))
    first, second = found.lines()
    assert found.is_unusual and second == "the vocabulary (4 symbols) has every symbol of the texts"
    assert first == ("1 rows have letters with marks in another Unicode form: they are read as the vocabulary has them")


def test_what_unknown_symbols_are_read_as_and_marks_are_said():
    note, first, *_, last = coverage(["e\u0301"], Vocabulary("xe")).lines("texts")
    assert note == "vocabulary: symbol 0 is 'x', not the space: unknown symbols are read as it"
    assert first == "the vocabulary lacks 1 symbols, of 1 texts; a model reads them as 'x':"
    assert last == "  marks of letters are among them: write the letters of the vocabulary composed (NFC)"
