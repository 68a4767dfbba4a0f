from __future__ import annotations

import pytest
import torch

from f5_tts.data.text import Vocabulary, read_vocabulary


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
