"""Normal form of texts and transcripts by language, so that two spellings of the same words compare as equal.

Case, punctuation, width and numbers are unified. Numbers in languages without rules of this project are spelled out by
num2words; this is the only module that imports it, and opencc.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from f5_tts.data.texts import normalize
from f5_tts.extras import install_hint
from f5_tts.rewards.asr.number_words import CJK, is_code, is_year, spell_out

KANA, HAN, HANGUL = "\u3040-\u30ff", "\u3005-\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff", "\uac00-\ud7a3"
UNSPACED = f"{KANA}{HAN}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # scripts that are written without spaces
JOINED = re.compile(f"[{UNSPACED}{HANGUL}]")  # scripts whose units follow a number without a space
WORD = re.compile(f"[{UNSPACED}]|[^\\s{UNSPACED}]+")
SCRIPTS = {"ja": KANA, "ko": HANGUL, "zh": HAN, "en": "a-z"}  # in the order in which they decide
DIGIT_VARIANTS = str.maketrans("两兩〇幺", "二二零一")  # variants of Chinese digits
OWN_NUMBERS = ("en", *CJK)  # languages whose numbers `spell_out` spells
POINT_LANGUAGES = ("he", "th", "te", "kn", "am", "bn", "fa")  # of num2words, with a decimal point; others have a comma
PERCENT = {
    "de": "prozent",
    "fr": "pour cent",
    "es": "por ciento",
    "it": "per cento",
    "pt": "por cento",
    "nl": "procent",
}
AND = {"en": "and", "de": "und", "fr": "et", "es": "y", "it": "e", "pt": "e", "nl": "en"}  # how & is read
CURRENCIES = {
    "$": {"en": "dollars", "de": "dollar", "fr": "dollars", "es": "dólares", "zh": "美元", "ja": "ドル", "ko": "달러"},
    "€": {"en": "euros", "de": "euro", "fr": "euros", "es": "euros", "zh": "欧元", "ja": "ユーロ", "ko": "유로"},
    "£": {"en": "pounds", "de": "pfund", "fr": "livres", "es": "libras", "zh": "英镑", "ja": "ポンド", "ko": "파운드"},
}
AMOUNT = r"[0-9][0-9.,]*(?<![.,])"
ABBREVIATIONS = {"en": {"mr": "mister", "mrs": "missus", "dr": "doctor", "vs": "versus", "ok": "okay"}}
LETTERS = {  # letters that are written in two ways
    "ru": str.maketrans("ё", "е"),
    "ar": str.maketrans("أإآى", "اااي", "ـ"),
    "fa": str.maketrans("يك", "یک", "ـ"),
}
MARKS_LEFT_OUT = ("ar", "fa", "ur", "he")  # whose vowel marks are optional
DOTTED_I = {"tr": str.maketrans("Iİ", "ıi"), "az": str.maketrans("Iİ", "ıi")}


def language_of(text: str) -> str:
    """Guess the language from the script: ja with kana, ko with Hangul, zh with other Han characters, else en."""
    return script_language(text) or "en"


def script_language(text: str) -> str:
    """Guess the language as `language_of`; an empty string for a text without a letter of these scripts."""
    lowered = unicodedata.normalize("NFKC", text).lower()
    return next((language for language, letters in SCRIPTS.items() if re.search(f"[{letters}]", lowered)), "")


def normal_form(text: str, language: str, *, simplify: bool = False) -> str:
    """Return the words of a text in lower case, with single spaces, without marks; numbers are spelled out.

    Args:
        language: code, such as en, zh, yue or de; numbers of a language that num2words does not know stay digits.
        simplify: whether traditional Chinese characters become simplified ones.

    Raises ImportError where a library is missing (`check_libraries`).
    """
    read_as = "zh" if language == "yue" else language
    lowered = unicodedata.normalize("NFKC", text.translate(DOTTED_I.get(read_as, {}))).lower()
    if read_as == "zh" and simplify:
        lowered = simplifier().convert(lowered)
    words = normalize(spoken_numbers(spoken_symbols(ascii_digits(lowered), read_as), read_as))
    words = words.translate(DIGIT_VARIANTS if read_as == "zh" else LETTERS.get(read_as, {}))
    if read_as in MARKS_LEFT_OUT:
        words = "".join(c for c in words if unicodedata.category(c) != "Mn")
    full_words = ABBREVIATIONS.get(read_as, {})
    return " ".join(full_words.get(word, word) for word in words.split())


def words_of(normal: str) -> list[str]:
    """Split a normal form into words; each character of a script without spaces is one."""
    return WORD.findall(normal)


def check_libraries(language: str, simplify: bool = False) -> None:
    """Raise ImportError with the install command if the normal form of a language needs a missing library."""
    needed = [] if language in (*OWN_NUMBERS, "yue") else ["num2words"]
    for library in [*needed, *["opencc"] * simplify]:
        if find_spec(library) is None:
            raise ImportError(
                f"texts in {language} are compared with the help of {library}; run: {install_hint(library)}"
            )


def ascii_digits(text: str) -> str:
    """Replace the decimal digits of all scripts by 0 to 9."""
    return "".join(str(unicodedata.decimal(c)) if unicodedata.category(c) == "Nd" else c for c in text)


def spoken_symbols(text: str, language: str) -> str:
    """Replace "&" and the signs of currencies before or after an amount by words."""
    if language in AND:
        text = text.replace("&", f" {AND[language]} ")
    for sign, names in CURRENCIES.items():
        if sign in text and language in names:
            text = currency(text, sign, names[language])
    return text


def currency(text: str, sign: str, name: str) -> str:
    """Write the name of a currency behind its amount; the English plural loses its s after 1."""

    def amount(found: re.Match[str]) -> str:
        number, gap = found[1] or found[2], "" if JOINED.match(name) else " "
        return f" {number}{gap}{name.removesuffix('s') if number == '1' else name} "

    return re.sub(f"{re.escape(sign)} ?({AMOUNT})|({AMOUNT}) ?{re.escape(sign)}", amount, text)


def spoken_numbers(text: str, language: str) -> str:
    """Spell out the numbers of a text, in lower-case NFKC with digits 0 to 9."""
    if language in OWN_NUMBERS:
        return spell_out(text, language)
    if not any(c.isdigit() for c in text) or language not in other_languages():
        return text
    thousands, decimal = (",", r"\.") if language in POINT_LANGUAGES else ("[. ]", ",")
    pattern = rf"([0-9]{{1,3}}(?:{thousands}[0-9]{{3}})+(?![0-9])|[0-9]+)(?:{decimal}([0-9]+))?( ?%)?"
    return re.sub(pattern, lambda found: f" {number_in_words(language, *found.groups(default=''))} ", text)


def number_in_words(language: str, integer: str, fraction: str, percent: str) -> str:
    """Spell out one number by num2words: a year as a year, a code digit by digit."""
    digits = re.sub("[^0-9]", "", integer)
    if is_code(digits):
        words = " ".join(say(int(digit), language) for digit in digits)
    elif fraction:
        words = say(float(f"{digits}.{fraction}"), language)
    else:
        words = say(int(digits), language, "year" if is_year(integer) and not percent else "cardinal")
    return f"{words} {PERCENT.get(language, '') if percent else ''}"


def say(number: int | float, language: str, kind: str = "cardinal") -> str:
    """Spell out a number by num2words, in lower case."""
    from num2words import num2words

    try:
        return num2words(number, lang=language, to=kind).lower()
    except NotImplementedError:
        return num2words(number, lang=language).lower()


@cache
def other_languages() -> Mapping[str, Any]:
    """Return the languages that num2words knows."""
    check_libraries("another language")
    from num2words import CONVERTER_CLASSES

    return CONVERTER_CLASSES


@cache
def simplifier() -> Any:
    """Load the converter of traditional to simplified Chinese characters."""
    check_libraries("zh", simplify=True)
    from opencc import OpenCC

    return OpenCC("t2s")
