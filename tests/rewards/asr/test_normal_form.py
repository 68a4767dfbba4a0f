from __future__ import annotations

import sys
from importlib.machinery import PathFinder

import pytest

from f5_tts.rewards.asr.normal_form import check_libraries, normal_form, script_language, words_of

# Each pair is what a text has and what a recognizer may write for a perfect reading of it.
PAIRS = {
    "en": [
        ("Hello, World!", "hello world"),
        ("It's a well-known fact.", "its a well known fact"),
        ("I have 25 eggs", "i have twenty five eggs"),
        ("In 1987 it rained", "in nineteen eighty seven it rained"),
        ("the 3rd of May", "the third of may"),
        ("50% of them", "fifty percent of them"),
        ("$5 each", "five dollars each"),
        ("only $1", "only one dollar"),
        ("£20", "twenty pounds"),
        ("1,250 people", "one thousand two hundred fifty people"),
        ("3.5 miles", "three point five miles"),
        ("Mr. Smith & Co", "mister smith and co"),
        ("Dr. Jones", "Doctor Jones"),
        ("ＡＢＣ　１２", "abc twelve"),
        ("“Why?” she asked…", "why she asked"),
        ("OK then", "okay then"),
        ("agent 007", "agent zero zero seven"),
        ("in 2024", "in twenty twenty four"),
    ],
    "zh": [
        ("你好，世界！", "你好世界"),
        ("今天是３月５日。", "今天是三月五日"),
        ("我有25个苹果", "我有二十五个苹果"),
        ("一共两百元", "一共二百元"),
        ("1987年", "一九八七年"),
        ("百分之五十", "50%"),
        ("一点五", "1.5"),
        ("他说：“好。”", "他说好"),
        ("我 喜欢 音乐", "我 喜欢 音乐。"),
        ("10050", "一万零五十"),
        ("使用GPU训练", "使用gpu训练"),
        ("二〇二四年", "2024年"),
        ("$5", "五美元"),
        ("房间301", "房间三百零一"),
        ("《红楼梦》", "红楼梦"),
        ("ＡＩ模型", "ai模型"),
        ("九点十五分", "9点15分"),
        ("１２３４５", "一万二千三百四十五"),
    ],
    "ja": [
        ("こんにちは、世界。", "こんにちは世界"),
        ("２５人です", "二十五人です"),
        ("ｶﾀｶﾅ", "カタカナ"),
        ("「はい」と言った", "はいと言った"),
        ("１０％", "十パーセント"),
        ("3.5キロ", "三点五キロ"),
        ("ＡＢＣ放送", "abc放送"),
        ("1000円", "千円"),
        ("本当？！", "本当"),
        ("東京・大阪", "東京 大阪"),
        ("10050", "一万五十"),
        ("$5", "五ドル"),
        ("第3回", "第三回"),
        ("そう…ですか", "そう ですか"),
    ],
    "ko": [
        ("안녕하세요, 세계!", "안녕하세요 세계"),
        ("25개", "이십오개"),
        ("50%", "오십퍼센트"),
        ("3.5", "삼점오"),
        ("“네”라고", "네 라고"),
        ("ＫＢＳ 방송", "kbs 방송"),
        ("1000원", "천원"),
        ("정말?", "정말"),
        ("10050", "만오십"),
        ("$5", "오달러"),
        ("제3회", "제삼회"),
        ("가~나", "가 나"),
    ],
    "de": [
        ("Guten Tag, Welt!", "guten tag welt"),
        ("Ich habe 25 Eier", "ich habe fünfundzwanzig eier"),
        ("Im Jahr 1987", "im jahr neunzehnhundertsiebenundachtzig"),
        ("50 % davon", "fünfzig prozent davon"),
        ("3,5 Kilo", "drei komma fünf kilo"),
        ("1.250 Leute", "eintausendzweihundertfünfzig leute"),
        ("5 € bitte", "fünf euro bitte"),
        ("Hund & Katze", "hund und katze"),
        ("die U-Bahn", "die u bahn"),
        ("„Ja“, sagte er.", "ja sagte er"),
        ("GRÖSSE", "größe".replace("ß", "ss")),
        ("007", "null null sieben"),
        ("Straße 12", "straße zwölf"),
        ("100 Meter", "einhundert meter"),
    ],
    "fr": [
        ("Bonjour, le monde !", "bonjour le monde"),
        ("J’ai 25 œufs", "j'ai vingt-cinq œufs"),
        ("71 personnes", "soixante et onze personnes"),
        ("50 % d'entre eux", "cinquante pour cent d’entre eux"),
        ("3,5 kilos", "trois virgule cinq kilos"),
        ("1 250 francs", "mille deux cent cinquante francs"),
        ("l’été", "L'ÉTÉ"),
        ("« Oui », dit-il.", "oui dit il"),
        ("chien & chat", "chien et chat"),
        ("80 euros", "quatre-vingts euros"),
        ("5 €", "cinq euros"),
        ("99", "quatre-vingt-dix-neuf"),
        ("où ?", "où"),
        ("rendez-vous", "rendez vous"),
    ],
    "es": [
        ("¡Hola, mundo!", "hola mundo"),
        ("¿Cómo estás?", "cómo estás"),
        ("25 huevos", "veinticinco huevos"),
        ("50 %", "cincuenta por ciento"),
        ("3,5 kilos", "tres punto cinco kilos"),
        ("1.250 personas", "mil doscientos cincuenta personas"),
        ("5 €", "cinco euros"),
        ("perro y gato", "perro & gato"),
        ("año 2024", "año dos mil veinticuatro"),
        ("SEÑOR", "señor"),
    ],
    "ru": [
        ("Привет, мир!", "привет мир"),
        ("ёлка", "елка"),
        ("21 день", "двадцать один день"),
        ("«Да»", "да"),
        ("100", "сто"),
    ],
    "tr": [("IŞIK", "ışık"), ("İstanbul", "istanbul")],
    "ar": [("مَرْحَبًا", "مرحبا"), ("٢٥", "خمسة و عشرون")],
    "th": [("๒๕", "ยี่สิบห้า")],
}
DIFFERENT = [
    ("en", "fifteen", "50"),
    ("en", "to wait for", "two wait four"),
    ("zh", "十四", "四十"),
    ("zh", "妈", "马"),
    ("de", "schon", "schön"),
    ("fr", "ou", "où"),
    ("es", "ano", "año"),
]


@pytest.mark.parametrize("language", PAIRS)
def test_a_perfect_reading_is_no_error_however_it_is_written(language: str):
    found = {pair: [words_of(normal_form(text, language)) for text in pair] for pair in PAIRS[language]}
    assert {pair: (text, heard) for pair, (text, heard) in found.items() if text != heard} == {}


def test_there_are_a_hundred_pairs_in_six_languages():
    assert sum(map(len, PAIRS.values())) >= 100 and sum(len(pairs) >= 10 for pairs in PAIRS.values()) >= 6


@pytest.mark.parametrize(("language", "one", "other"), DIFFERENT)
def test_other_words_stay_other_words(language: str, one: str, other: str):
    assert normal_form(one, language) != normal_form(other, language)


def test_traditional_characters_are_simplified_where_asked_and_chinese_alone():
    assert normal_form("漢語發展", "zh") == "漢語發展"
    assert normal_form("漢語發展", "zh", simplify=True) == normal_form("汉语发展", "zh", simplify=True)
    assert normal_form("廣東話", "yue", simplify=True) == "广东话"
    assert normal_form("漢語", "ja", simplify=True) == "漢語"


def test_words_are_characters_in_scripts_without_spaces_and_latin_words_among_them_stay_whole():
    assert words_of(normal_form("我用GPU 训练。", "zh")) == ["我", "用", "gpu", "训", "练"]
    assert words_of(normal_form("สวัสดี", "th")) == list("สวัสดี")
    assert words_of(normal_form("guten Tag", "de")) == ["guten", "tag"]


def test_numbers_of_a_language_that_no_library_knows_stay_digits():
    assert normal_form("25 mayai", "sw") == "25 mayai"


def test_a_script_names_a_language_only_where_it_can():
    assert [script_language(text) for text in ("한국", "漢字かな", "漢字", "Ça va", "привет", "123")] == [
        "ko",
        "ja",
        "zh",
        "en",
        "",
        "",
    ]


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch):
    check_libraries("de", simplify=True)
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if f is not PathFinder])
    for name in ("num2words", "opencc"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    check_libraries("zh")
    with pytest.raises(ImportError, match=r"texts in de are compared with the help of num2words; run: pip install"):
        check_libraries("de")
    with pytest.raises(ImportError, match="zh are compared with the help of opencc"):
        check_libraries("zh", simplify=True)
