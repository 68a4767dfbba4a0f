from __future__ import annotations

import unicodedata
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from f5_tts.data.tokenizer import EMILIA_VOCAB, Vocabulary, byte_vocabulary, read_vocabulary, require_space


def test_a_character_is_the_number_of_its_line_and_an_unknown_one_is_0():
    ids = Vocabulary([" ", "a", "b"]).encode(["ba b", "xaz "])
    assert ids.tolist() == [[2, 1, 0, 2], [0, 1, 0, 0]]


def test_shorter_texts_are_padded_with_minus_1():
    ids = Vocabulary([" ", "a", "b"]).encode(["ab", "", "b"])
    assert ids.tolist() == [[1, 2], [-1, -1], [2, -1]]
    assert ids.dtype == torch.int64


def test_a_batch_of_empty_texts_has_no_columns():
    ids = Vocabulary([" ", "a"]).encode(["", ""])
    assert ids.shape == (2, 0) and ids.dtype == torch.int64


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_file_holds_one_symbol_a_line_the_space_included(end, tmp_path):
    (tmp_path / "vocab.txt").write_text(" \na\né\n你" + end, encoding="utf-8")
    vocabulary = read_vocabulary(tmp_path / "vocab.txt")
    assert vocabulary.symbols == (" ", "a", "é", "你")
    assert len(vocabulary) == 4
    assert vocabulary.encode(["你 é"]).tolist() == [[3, 0, 2]]


def test_a_missing_file_is_named_with_the_key_to_set(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no vocabulary at .*gone\.txt: set model\.tokenizer_path"):
        read_vocabulary(str(tmp_path / "gone.txt"))


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_file_is_named(content, tmp_path):
    (tmp_path / "vocab.txt").write_text(content)
    with pytest.raises(ValueError, match=r"vocabulary .*vocab\.txt is empty"):
        read_vocabulary(tmp_path / "vocab.txt")


def upstream_ids(path: Path) -> dict[str, int]:
    """Read a vocabulary as F5-TTS's get_tokenizer does; the model has a row for each key."""
    with path.open(encoding="utf-8") as stream:
        return {line[:-1]: index for index, line in enumerate(stream)}


def test_of_symbols_that_stand_twice_the_last_counts_as_in_f5_tts(tmp_path):
    (tmp_path / "vocab.txt").write_text(" \nb\na\nb\nc\nd\n")
    vocabulary, upstream = read_vocabulary(tmp_path / "vocab.txt"), upstream_ids(tmp_path / "vocab.txt")
    assert len(vocabulary) == len(upstream) == 5
    assert vocabulary.encode(["abc "]).tolist() == [[upstream[symbol] for symbol in "abc "]]
    assert upstream["d"] == 5 and vocabulary.encode(["d"]).tolist() == [[0]]  # a row that no such model has
    (note,) = vocabulary.notes
    assert (
        note == "['b'] are there more than once: the last line counts, as in F5-TTS; ['d'] have no row and are unknown"
    )


FILES = {
    "plain": (b" \na\nz\n", [" ", "a", "z"], None),
    "byte order mark": (
        b"\xef\xbb\xbf \na\nz\n",
        [" ", "a", "z"],
        "a byte order mark is at its beginning and left out",
    ),
    "CRLF": (b" \r\na\r\nz\r\n", [" ", "a", "z"], "its lines end with CRLF"),
    "no line end": (b" \na\nz", [" ", "a", "z"], "its last line has no line end; it is the symbol 'z'"),
    "empty last line": (b" \na\nz\n\n", [" ", "a", "z", ""], "its last line is empty: a symbol of no text, and a row"),
    "empty first line": (b"\na\nz\n", [" ", "a", "z"], "its first line is empty and read as the space"),
    "empty line beside the space": (b"\na\n \n", ["", "a", " "], "symbol 0 is '', not the space"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_rightly_as_editors_leave_it_and_what_is_unusual_is_said(name, tmp_path):
    content, symbols, note = FILES[name]
    (tmp_path / "vocab.txt").write_bytes(content)
    vocabulary = read_vocabulary(tmp_path / "vocab.txt")
    assert list(vocabulary.symbols) == symbols and len(vocabulary) == len(upstream_ids(tmp_path / "vocab.txt"))
    assert vocabulary.encode([" az"]).tolist() == [[vocabulary.ids.get(symbol, 0) for symbol in " az"]]
    assert len(vocabulary.notes) == (note is not None)
    assert note is None or note in vocabulary.notes[0]


def test_a_first_symbol_that_is_no_space_is_refused_for_a_new_model_and_noted_for_one_that_has_it():
    vocabulary = Vocabulary("abc")
    assert vocabulary.encode(["b ?"]).tolist() == [[1, 0, 0]]
    assert vocabulary.notes == ["symbol 0 is 'a', not the space: unknown symbols are read as it"]
    with pytest.raises(
        ValueError, match=r"^vocab\.txt: line 1 must be the space.*; it is 'a': put a line with one space"
    ):
        require_space(vocabulary, "vocab.txt")
    for good in (Vocabulary(" ab"), Vocabulary(["", "a"]), byte_vocabulary()):
        require_space(good, "vocab.txt")
        assert good.notes == []


# --- Unicode forms ---

VIETNAMESE = "tiếng Việt ở đây"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_vietnamese_keeps_its_tones_in_any_form_where_the_vocabulary_has_the_letters(form):
    vocabulary = Vocabulary([" ", *sorted(set(VIETNAMESE) - {" "})])
    text = unicodedata.normalize(form, VIETNAMESE)
    assert vocabulary.unknown([text]) == [] and vocabulary.encode([text]).equal(vocabulary.encode([VIETNAMESE]))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_vocabulary_of_letters_and_marks_reads_composed_texts_too(form):
    decomposed = unicodedata.normalize("NFD", VIETNAMESE)
    vocabulary = Vocabulary([" ", *sorted(set(decomposed) - {" "})])
    text = unicodedata.normalize(form, VIETNAMESE)
    assert vocabulary.unknown([text]) == [] and vocabulary.split(text) == list(decomposed)


@pytest.mark.parametrize(
    "written, symbols, read",
    [
        ("\u09c7\u09be", " \u09cb", ["\u09cb"]),  # Bengali vowel signs without combining classes
        ("\u1112\u1161\u11ab", " \ud55c", ["\ud55c"]),  # Hangul jamo
        ("\u1112\u1161\u11ab", " \u1112\u1161\u11ab", ["\u1112", "\u1161", "\u11ab"]),
        ("e\u0301", " e", ["e", "\u0301"]),  # neither form is known: it stays, and the mark is unknown
        ("q\u0301", " q\u0301", ["q", "\u0301"]),  # there is no composed form
    ],
)
def test_each_letter_is_read_in_the_form_that_is_known(written, symbols, read):
    assert Vocabulary(symbols).split(written) == read


def test_bytes_and_ascii_are_not_composed():
    assert byte_vocabulary().split("e\u0301") == list("e\u0301".encode().decode("latin-1"))
    assert Vocabulary(" ab").split("ab ") == ["a", "b", " "]


# --- tokenizers ---


@pytest.fixture(scope="module")
def released() -> Vocabulary:
    return read_vocabulary(EMILIA_VOCAB, "pinyin")


def test_the_released_vocabulary_lies_in_the_package_and_at_the_guides_path(released, table):
    facts = table("g6_tokenizer")["vocab"]
    assert sha256(EMILIA_VOCAB.read_bytes()).hexdigest() == facts["sha256"]
    assert Path("data/Emilia_ZH_EN_pinyin/vocab.txt").read_bytes() == EMILIA_VOCAB.read_bytes()
    assert (len(released), released.ids[" "]) == (facts["size"], 0)


def test_pinyin_symbols_ids_and_unknown_symbols_are_the_published_tokenizers(released, table):
    for item in table("g6_tokenizer")["items"]:
        assert released.split(item["text"]) == item["tokens"]
        assert released.encode([item["text"]]).tolist() == [item["ids"]]
        assert released.unknown([item["text"]]) == sorted(set(item["oov"]))


def test_characters_are_looked_up_as_they_stand(released, table):
    characters = Vocabulary(released.symbols, "char")
    for item in table("g6_tokenizer")["items"]:
        assert characters.encode([item["text"]]).tolist() == [item["raw_char_ids"]]


def test_batches_are_padded_as_the_published_tokenizers_pad_them(released, table):
    batch = table("g6_tokenizer")["batch"]
    assert released.encode(batch["texts"]).tolist() == batch["ids_padded"]
    assert byte_vocabulary().encode(batch["texts"]).tolist() == batch["bytes_padded"]


def test_every_text_has_as_many_byte_tokens_as_bytes_and_none_is_unknown(table):
    for item in table("g6_tokenizer")["items"]:
        assert byte_vocabulary().encode([item["text"]]).shape == (1, item["utf8_len"])
        assert byte_vocabulary().unknown([item["text"]]) == []


def test_a_text_that_comes_as_symbols_is_not_split_again(released):
    assert released.encode([[" ", "ni2", " ", "hao3"]]).tolist() == released.encode(["你好"]).tolist()


def test_a_run_of_east_asian_signs_that_are_no_characters_is_kept_sign_by_sign(released):
    assert released.split("，，。。") == ["，", "，", "。", "。"]


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b" \n\xff\n")
    with pytest.raises(ValueError, match=r"vocabulary .*vocab\.txt is not text in UTF-8 \(.* at byte 2\)"):
        read_vocabulary(tmp_path / "vocab.txt")
