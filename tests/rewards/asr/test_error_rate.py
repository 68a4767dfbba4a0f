from __future__ import annotations

import pytest

from f5_tts.rewards.asr.error_rate import (
    char_errors,
    error_rates,
    has_prompt_leak,
    has_repetition,
    normalize,
    tokens,
    word_errors,
    word_scores,
)
from f5_tts.rewards.asr.normal_form import language_of


def total(reference: list[str], hypothesis: list[str]) -> float:
    return sum(error_rates(reference, hypothesis))


def test_errors_are_told_apart_by_kind():
    """Use four words with two insertions, then with one deletion and one substitution."""
    transcripts = ["well", "one", "two", "er", "three", "nine"]
    assert error_rates(["one", "two", "three", "four"], transcripts) == (0.5, 0.0, 0.25)
    assert error_rates(["one", "two", "three", "four"], ["one", "three", "nine"]) == (0.0, 0.25, 0.25)


@pytest.mark.parametrize(
    "text, compared",
    [
        ("  Three,\tONE four! ", "three one four"),
        ("Don’t stop", "dont stop"),
        ("twenty-one", "twenty one"),
        ("ｆｉｖｅ ½", "five 1 2"),  # NFKC normalizes full-width letters and a fraction
        ("...", ""),
    ],
)
def test_case_marks_spacing_and_compatibility_forms_do_not_count(text, compared):
    assert normalize(text) == compared


@pytest.mark.parametrize(
    "hypothesis, edits",
    [
        ("three one four", 0),
        ("three four", 1),  # one word missing
        ("three nine four", 1),  # one word replaced
        ("oh three one one four", 2),  # two words inserted
        ("", 3),
    ],
)
def test_edits_are_counted_in_whole_words(hypothesis, edits):
    assert word_errors("Three, one, four.", hypothesis) == (edits, 3)


def test_characters_are_counted_without_their_spaces():
    assert char_errors("One, two!", "won two") == (2, 6)  # w inserted, e deleted
    assert char_errors("你好", "你") == (1, 2)


@pytest.mark.parametrize(
    "text, heard, too_often",
    [
        ("one two three", "one two three", False),
        ("one two three", "one two two three", True),
        ("one two two three", "one two two three", False),
        ("one two two three", "one two two two three", True),
        ("one two three two", "one two three two", False),  # twice, but not in a row
        ("one two three", "one two one two three", True),  # two words together
        ("one two one two", "One, two! One two.", False),
        ("one two", "no no two", True),  # not in the text
        ("one two", "", False),
        ("你好吗", "你好好吗", True),
    ],
)
def test_words_said_again_are_noticed_unless_the_text_has_them_as_often_in_a_row(text, heard, too_often):
    assert has_repetition(text, heard) == too_often


@pytest.mark.parametrize(
    "heard, leaked",
    [
        ("nine four eight", False),
        ("two nine four eight", True),
        ("two four nine four eight", True),
        ("four nine four eight", False),  # also a word of the text
        ("nine two four eight", False),  # not at the start
        ("six nine four eight", False),  # not a word of the prompt
        ("six two nine four eight", True),
        ("", False),
    ],
)
def test_the_prompts_words_are_noticed_at_the_start_alone(heard, leaked):
    assert has_prompt_leak("Seven, two, four.", "nine four eight", heard) == leaked


def test_an_error_rate_counts_a_share_per_edit_and_may_pass_one():
    transcripts = ["one two three four", "one two three", "one two", "nine nine nine nine nine nine nine"]
    assert [total(["one", "two", "three", "four"], text.split()) for text in transcripts] == [0.0, 0.25, 0.5, 1.75]


def test_of_a_reference_without_symbols_only_silence_is_right():
    assert (total([], []), total([], ["one"])) == (0.0, 1.0)


def test_a_long_text_costs_what_its_edits_cost():
    text = "the quick brown fox jumps over the lazy dog " * 100
    transcripts = text.replace("dog", "cat")
    assert total(tokens(text, "en", "word"), tokens(transcripts, "en", "word")) == 100 / 900
    assert total(tokens(text, "en", "char"), tokens(transcripts, "en", "char")) == 300 / 3500


@pytest.mark.parametrize(
    ("language", "unit", "text", "compared"),
    [
        ("en", "word", "Hello, it's 25!", "hello its twenty five"),
        ("en", "char", "Hi 5", "h i f i v e"),
        ("en", "word", "ｆｉｖｅ　ＮＦＫＣ", "five nfkc"),
        ("en", "word", "say 你好 twice", "say 你 好 twice"),
        ("zh", "char", "我 有 25 个。", "我 有 二 十 五 个"),
        ("zh", "word", "打开Wi-Fi吧，两次", "打 开 wi fi 吧 二 次"),
        ("zh", "char", "AI好", "a i 好"),
        ("yue", "word", "幺〇", "一 零"),
        ("ja", "word", "今日は、ＡＩです。", "今 日 は ai で す"),
        ("ja", "char", "ｶﾀｶﾅー", "カ タ カ ナ ー"),
        ("ko", "word", "안녕하세요, 세계!", "안녕하세요 세계"),
        ("ko", "char", "안녕 5", "안 녕 오"),
        ("en", "char", "\u200b…—", ""),
    ],
)
def test_texts_are_compared_by_characters_or_words_as_their_language_is_written(language, unit, text, compared):
    assert tokens(text, language, unit) == compared.split()


@pytest.mark.parametrize(
    ("text", "language"),
    [("25 apples", "en"), ("", "en"), ("打开 Wi-Fi", "zh"), ("今日は", "ja"), ("日本のAI", "ja"), ("세계 世界", "ko")],
)
def test_a_language_is_told_by_its_script(text, language):
    assert language_of(text) == language


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
def test_each_word_earns_what_was_heard_of_it_and_their_mean_is_one_less_the_total(heard, scores):
    assert word_scores("one two three", heard) == scores
    edits, words = word_errors("one two three", heard)
    assert sum(scores) / 3 == pytest.approx(1 - edits / words)


def test_a_text_without_words_earns_nothing():
    assert word_scores("...", "one") == []
