"""Spelling out of numbers in English, Chinese, Japanese and Korean."""

from __future__ import annotations

import re

NUMBER = re.compile(r"([0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(\.[0-9]+)?(%|(?:st|nd|rd|th)\b)?(年?)")
MAX_DIGITS = 12  # digits; longer numbers, and those with a leading zero, are read digit by digit

# fmt: off
ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]
# fmt: on
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ENGLISH_UNITS = {10**9: "billion", 10**6: "million", 1000: "thousand", 100: "hundred"}
YEAR = re.compile("1[1-9][0-9]{2}|20[1-9][0-9]")  # English reads these as years, in two pairs of digits
ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
ORDINALS["twelve"] = "twelfth"

# By language: digits; units; the units that are used without "one"; decimal point; percent.
CJK = {
    "zh": ("零一二三四五六七八九", {10**8: "亿", 10**4: "万", 1000: "千", 100: "百", 10: "十"}, "", "点", "百分之{}"),
    "ja": (
        "零一二三四五六七八九",
        {10**8: "億", 10**4: "万", 1000: "千", 100: "百", 10: "十"},
        "千百十",
        "点",
        "{}パーセント",
    ),
    "ko": (
        "영일이삼사오육칠팔구",
        {10**8: "억", 10**4: "만", 1000: "천", 100: "백", 10: "십"},
        "만천백십",
        "점",
        "{}퍼센트",
    ),
}


def spell_out(text: str, language: str) -> str:
    """Replace the numbers of a text with words; the text is lower-case NFKC.

    Ambiguous numbers get one reading: four digits that can be an English year are read as a year (nineteen eighty
    seven), Chinese years before 年 digit by digit, Korean numbers as Sino-Korean ones. Numbers in other languages stay
    as they are.
    """
    if language == "en":
        return NUMBER.sub(lambda found: f" {english(*found.groups(default=''))} ", text)
    if language in CJK:
        return NUMBER.sub(lambda found: cjk(language, *found.groups(default="")), text)
    return text


def english(integer: str, fraction: str, mark: str, year_mark: str) -> str:
    """Spell out one English number with its fraction and its percent sign or ordinal ending."""
    if is_year(integer) and not fraction and mark != "%":
        words = english_year(integer)
    elif is_code(integer):
        words = digit_by_digit(integer)
    else:
        words = english_count(int(integer.replace(",", "")))
    if fraction:
        words += " point " + digit_by_digit(fraction[1:])
    if mark == "%":
        return words + " percent"
    return (english_ordinal(words) if mark else words) + year_mark


def is_year(integer: str) -> bool:
    """Check whether a whole number is read as a year: 1100 to 1999, and 2010 to 2099."""
    return YEAR.fullmatch(integer) is not None


def is_code(integer: str) -> bool:
    """Check whether a number is read digit by digit: more than LONGEST digits, or a leading zero."""
    digits = integer.replace(",", "")
    return len(digits) > MAX_DIGITS or (digits[0] == "0" and len(digits) > 1)


def digit_by_digit(digits: str) -> str:
    """Spell out English digits one by one."""
    return " ".join(ONES[int(digit)] for digit in digits if digit != ",")


def english_count(number: int) -> str:
    """Spell out a number without "and": 123 becomes "one hundred twenty three"."""
    for size, unit in ENGLISH_UNITS.items():
        if number >= size:
            quotient, rest = divmod(number, size)
            return f"{english_count(quotient)} {unit} {english_count(rest) if rest else ''}".strip()
    if number < 20:
        return ONES[number]
    return f"{TENS[number // 10 - 2]} {ONES[number % 10] if number % 10 else ''}".strip()


def english_year(digits: str) -> str:
    """Spell out a year: "nineteen eighty seven", "nineteen oh five", "nineteen hundred"."""
    century, year = english_count(int(digits[:2])), int(digits[2:])
    return f"{century} {'hundred' if year == 0 else f'oh {ONES[year]}' if year < 10 else english_count(year)}"


def english_ordinal(words: str) -> str:
    """Turn number words into an ordinal: "twenty one" becomes "twenty first"."""
    *before, last = words.split()
    regular = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    return " ".join([*before, ORDINALS.get(last, regular)])


def cjk(language: str, integer: str, fraction: str, mark: str, year_mark: str) -> str:
    """Spell out one Chinese, Japanese or Korean number with its fraction and its percent sign."""
    digits, _, _, point, percent = CJK[language]
    by_digit = str.maketrans("0123456789", digits, ",")
    if is_code(integer) or (language == "zh" and year_mark and len(integer) == 4):
        words = integer.translate(by_digit)
    else:
        words = cjk_count(language, int(integer.replace(",", "")))
        words = words.removeprefix("一") if words.startswith("一十") else words
    if fraction:
        words += point + fraction[1:].translate(by_digit)
    return (percent.format(words) if mark == "%" else words + mark) + year_mark


def cjk_count(language: str, number: int) -> str:
    """Spell out a whole number: 10050 is 一万零五十 in Chinese and 一万五十 in Japanese."""
    digits, units, without_one, _, _ = CJK[language]
    for size, unit in units.items():
        if number >= size:
            quotient, rest = divmod(number, size)
            count = "" if quotient == 1 and unit in without_one else cjk_count(language, quotient)
            gap = digits[0] if language == "zh" and 0 < rest < size // 10 else ""
            return count + unit + gap + (cjk_count(language, rest) if rest else "")
    return digits[number]
