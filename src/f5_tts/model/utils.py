"""Functions that programs for F5-TTS import from its module of this name: texts, masks, seeds."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from f5_tts.data.masking import random_spans, span_mask
from f5_tts.data.tokenizer import EMILIA_VOCAB, pinyin_symbols, read_vocabulary

T = TypeVar("T")
RELEASED = ("Emilia_ZH_EN", "pinyin")  # data set and tokenizer of the vocabulary in the package


def exists(value: object) -> bool:
    """Check that a value is not None."""
    return value is not None


def default(value: T | None, fallback: T) -> T:
    """Return the value, or the other one for None."""
    return fallback if value is None else value


def seed_everything(seed: int = 0) -> None:
    """Seed the random numbers of Python and torch; `infer_process` speaks from this seed."""
    random.seed(seed)
    torch.manual_seed(seed % 2**64)


def convert_char_to_pinyin(text_list: Sequence[str], polyphone: bool = True) -> list[list[str]]:
    """Split texts into the symbols of the published models: characters, and pinyin syllables for Chinese ones."""
    if not polyphone:
        raise ValueError("polyphone=False is not offered: the published models were trained with tone sandhi")
    return [pinyin_symbols(text) for text in text_list]


def get_tokenizer(dataset_name: str, tokenizer: str = "pinyin") -> tuple[dict[str, int] | None, int]:
    """Return a vocabulary as ids by symbol, and its size; for bytes None and 256.

    With `custom`, `dataset_name` is the path of the vocabulary file; else it is that of data/<name>_<tokenizer>.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if tokenizer == "byte":
        return None, 256
    path = Path(dataset_name) if tokenizer == "custom" else Path("data") / f"{dataset_name}_{tokenizer}" / "vocab.txt"
    if (dataset_name, tokenizer) == RELEASED and not path.is_file():
        path = EMILIA_VOCAB
    vocabulary = read_vocabulary(path)
    return vocabulary.ids, len(vocabulary)


def list_str_to_idx(
    text: Sequence[str | Sequence[str]], vocab_char_map: Mapping[str, int], padding_value: int = -1
) -> Int[Tensor, "b nt"]:
    """Encode texts or lists of symbols as rows of ids; an unknown symbol is 0, a space."""
    rows = [torch.tensor([vocab_char_map.get(symbol, 0) for symbol in item], dtype=torch.long) for item in text]
    return pad_sequence(rows, batch_first=True, padding_value=padding_value)


def list_str_to_tensor(text: Sequence[str], padding_value: int = -1) -> Int[Tensor, "b nt"]:
    """Encode texts as rows of UTF-8 bytes."""
    rows = [torch.tensor(list(item.encode()), dtype=torch.long) for item in text]
    return pad_sequence(rows, batch_first=True, padding_value=padding_value)


def lens_to_mask(t: Int[Tensor, " b"], length: int | None = None) -> Bool[Tensor, "b n"]:
    """Return a mask that is True on the first t frames of each item."""
    return span_mask(torch.zeros_like(t), t, int(t.amax()) if length is None else length)


def mask_from_frac_lengths(seq_len: Int[Tensor, " b"], frac_lengths: Float[Tensor, " b"]) -> Bool[Tensor, "b n"]:
    """Return a mask of one span per item, of this fraction of its frames, at a random place."""
    places = torch.rand_like(frac_lengths)
    return random_spans(seq_len, frac_lengths, places, int(seq_len.amax()))
