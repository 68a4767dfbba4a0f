from __future__ import annotations

import pytest

from f5_tts.rewards.asr.number_words import spell_out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0", "zero"),
        ("13", "thirteen"),
        ("20", "twenty"),
        ("25", "twenty five"),
        ("100", "one hundred"),
        ("342", "three hundred forty two"),
        ("1,005", "one thousand five"),
        ("2,000,010", "two million ten"),
        (
            "999999999999",
            " ".join(f"nine hundred ninety nine{unit}" for unit in (" billion", " million", " thousand", "")),
        ),
        ("3.05", "three point zero five"),
        ("25%", "twenty five percent"),
        ("007", "zero zero seven"),
        ("1,000,000,000", "one billion"),
        ("1234567890123", "one two three four five six seven eight nine zero one two three"),
        ("1st", "first"),
        ("12th", "twelfth"),
        ("20th", "twentieth"),
        ("21st", "twenty first"),
        ("1987", "nineteen eighty seven"),
        ("1905", "nineteen oh five"),
        ("1900", "nineteen hundred"),
        ("2005", "two thousand five"),
        ("2024", "twenty twenty four"),
        ("2,024", "two thousand twenty four"),
        ("1987.5", "one thousand nine hundred eighty seven point five"),
    ],
)
def test_english_numbers_are_read_as_in_america(text, words):
    assert spell_out(text, "en").split() == words.split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0", "零"),
        ("10", "十"),
        ("15", "十五"),
        ("110", "一百一十"),
        ("105", "一百零五"),
        ("1005", "一千零五"),
        ("1050", "一千零五十"),
        ("10050", "一万零五十"),
        ("100500", "十万零五百"),
        ("100,000,005", "一亿零五"),
        ("1,000,000,005", "十亿零五"),
        ("3.05", "三点零五"),
        ("25%", "百分之二十五"),
        ("2024年5月", "二零二四年五月"),
        ("110年", "一百一十年"),
        ("0571", "零五七一"),
    ],
)
def test_chinese_numbers_say_zero_once_and_years_digit_by_digit(text, words):
    assert spell_out(text, "zh") == words


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("ja", "11110", "一万千百十"),
        ("ja", "2024年", "二千二十四年"),
        ("ja", "3.5%", "三点五パーセント"),
        ("ko", "11110", "만천백십"),
        ("ko", "10001", "만일"),
        ("ko", "25%", "이십오퍼센트"),
    ],
)
def test_japanese_and_korean_leave_out_ones_and_zeros(language, text, words):
    assert spell_out(text, language) == words


def test_what_is_no_number_stays_and_an_unknown_language_keeps_its_digits():
    assert spell_out("room f5, 3-4.", "en").split() == ["room", "f", "five", ",", "three", "-", "four", "."]
    assert spell_out("我有25个", "zh") == "我有二十五个"
    assert spell_out("25 pommes", "fr") == "25 pommes"
