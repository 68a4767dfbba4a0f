"""Tokenizers, which split a text into symbols, and vocabularies (files of one symbol per line), which number them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from f5_tts.config.schema import TrainConfig, vocab_path

PADDING = -1
EMILIA_VOCAB = Path(__file__).with_name("pinyin_vocab.txt")  # the vocabulary of published weights
PLAIN_PUNCTUATION = str.maketrans(";“”‘’", ",\"\"''")
NO_SPACE_AFTER = frozenset(" :'\"")  # no space is inserted between these and an ASCII word

MAX_DEPTH = 16  # levels of nested lists


def pinyin_symbols(text: str) -> list[str]:
    """Split a text into characters, with a space and a pinyin syllable with tone for each Chinese one.

    Symbols are those of published F5-TTS models. Words are segmented by rjieba and read by pypinyin with tone sandhi.
    """
    import rjieba

    symbols: list[str] = []
    for word in rjieba.cut(text.translate(PLAIN_PUNCTUATION)):
        if not word.isascii():
            symbols += syllables(word)
            continue
        if len(word) > 1 and symbols and symbols[-1] not in NO_SPACE_AFTER:
            symbols.append(" ")
        symbols += word
    return symbols


def syllables(word: str) -> list[str]:
    """Split a non-ASCII word: pypinyin reads it as a whole if all of it is East Asian, else character by character."""
    from pypinyin import Style, lazy_pinyin  # takes a quarter of a second to import

    pieces = [word] if len(word.encode()) == 3 * len(word) else list(word)
    symbols: list[str] = []
    for piece in pieces:
        readings = lazy_pinyin(piece, style=Style.TONE3, errors=split_characters, tone_sandhi=True)
        for character, reading in zip(piece, readings, strict=True):
            symbols += [" ", reading] if "\u3100" <= character <= "\u9fff" else [character]
    return symbols


def split_characters(characters: str) -> Any:  # a list: pypinyin accepts it but does not declare it
    """Split characters without a reading into a list, each unchanged; an error handler of pypinyin."""
    return list(characters)


def byte_symbols(text: str) -> list[str]:
    """Split a text into its UTF-8 bytes, each as the character of that number."""
    return list(text.encode().decode("latin-1"))


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "custom": list,
    "char": list,
    "pinyin": pinyin_symbols,
    "byte": byte_symbols,
}


class Vocabulary:
    """Symbols in the order of the model's text embedding; symbol 0 (space) also stands for unknown ones."""

    def __init__(self, symbols: Sequence[str], tokenizer: str = "custom") -> None:
        self.symbols = tuple(symbols)
        self.ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.symbols)

    def split(self, text: str | Sequence[str]) -> list[str]:
        """Split a text into symbols; a list of symbols is returned as is."""
        return TOKENIZERS[self.tokenizer](text) if isinstance(text, str) else list(text)

    def encode(self, texts: Sequence[str | Sequence[str]]) -> Int[Tensor, "b nt"]:
        """Encode texts as rows of token ids, padded with -1."""
        rows = [[self.ids.get(symbol, 0) for symbol in self.split(text)] for text in texts]
        width = max(map(len, rows))
        return torch.tensor([row + [PADDING] * (width - len(row)) for row in rows], dtype=torch.long)

    def unknown(self, texts: Sequence[str | Sequence[str]]) -> list[str]:
        """List the texts' symbols that are not in the vocabulary, which the model reads as a space, each once."""
        return sorted({symbol for text in texts for symbol in self.split(text)} - self.ids.keys())


def read_vocabulary(path: str | Path, tokenizer: str = "custom") -> Vocabulary:
    """Read a vocabulary file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, not UTF-8, or holds a symbol twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no vocabulary at {path}: set model.tokenizer_path to one symbol a line")
    try:
        symbols = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"vocabulary {path} is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    if symbols == [""]:
        raise ValueError(f"vocabulary {path} is empty: it needs one symbol a line, space first")
    duplicates = sorted(symbol for symbol, num in Counter(symbols).items() if num > 1)
    if duplicates:
        raise ValueError(
            f"vocabulary {path} holds {duplicates[:5]} more than once: each line must be a different symbol"
        )
    return Vocabulary(symbols, tokenizer)


def byte_vocabulary() -> Vocabulary:
    """Return the vocabulary of the 256 bytes, which needs no file."""
    return Vocabulary([chr(byte) for byte in range(256)], "byte")


def is_valid_unicode(value: Any, max_depth: int = MAX_DEPTH) -> bool:
    """Check whether a value can be written as JSON: valid Unicode without lone surrogates, and of limited depth."""
    if isinstance(value, str):
        return value.isascii() or value == escape_surrogates(value)
    items = [*value, *value.values()] if isinstance(value, Mapping) else value
    return not isinstance(items, list) or (
        max_depth > 0 and all(is_valid_unicode(item, max_depth - 1) for item in items)
    )


def escape_surrogates(text: str) -> str:
    """Replace what is not valid Unicode in a text by escapes."""
    return text.encode(errors="backslashreplace").decode()


def build_vocabulary(cfg: TrainConfig) -> Vocabulary:
    """Read the vocabulary of a run.

    A pinyin model without a file of its own gets the released vocabulary; a byte model needs no file.
    """
    model, path = cfg.model, vocab_path(cfg)
    if model.tokenizer == "byte":
        return byte_vocabulary()
    if model.tokenizer == "pinyin" and model.tokenizer_path is None and not path.is_file():
        path = EMILIA_VOCAB
    return read_vocabulary(path, model.tokenizer)
