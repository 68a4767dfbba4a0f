from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import torch

from f5_tts.data.tokenizer import EMILIA_VOCAB, Vocabulary, byte_vocabulary, read_vocabulary


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


def test_symbols_that_stand_twice_are_listed(tmp_path):
    (tmp_path / "vocab.txt").write_text(" \nb\na\nb\nc\na\n")
    with pytest.raises(ValueError, match=r"vocabulary .*vocab\.txt holds \['a', 'b'\] more than once"):
        read_vocabulary(tmp_path / "vocab.txt")


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
