"""Text -> token ids: a tokenizer splits it into symbols, a vocabulary (a file with one symbol a line) numbers them."""

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
EMILIA_VOCAB = Path(__file__).with_name("pinyin_vocab.txt")  # the vocabulary that published weights index
PLAIN_PUNCTUATION = str.maketrans(";“”‘’", ",\"\"''")
NO_SPACE_AFTER = frozenset(" :'\"")  # what an ASCII word may follow without a space

MAX_DEPTH = 16  # lists within lists


def pinyin_symbols(text: str) -> list[str]:
    """Characters, and for each Chinese one a space and its syllable with tone, as published F5-TTS models read them.

    Words decide how a character is read (rjieba cuts, pypinyin reads, tone sandhi applied).
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
    """A word that is not all ASCII: read as a whole where it is East Asian throughout, else character by character."""
    from pypinyin import Style, lazy_pinyin  # takes a quarter of a second to import

    pieces = [word] if len(word.encode()) == 3 * len(word) else list(word)
    symbols: list[str] = []
    for piece in pieces:
        readings = lazy_pinyin(piece, style=Style.TONE3, errors=split_characters, tone_sandhi=True)
        for character, reading in zip(piece, readings, strict=True):
            symbols += [" ", reading] if "\u3100" <= character <= "\u9fff" else [character]
    return symbols


def split_characters(characters: str) -> Any:  # a list, which pypinyin takes and does not declare
    """Signs that have no reading stay as they are, each by itself."""
    return list(characters)


def byte_symbols(text: str) -> list[str]:
    """The UTF-8 bytes of a text, each as the character of that number."""
    return list(text.encode().decode("latin-1"))


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "custom": list,
    "char": list,
    "pinyin": pinyin_symbols,
    "byte": byte_symbols,
}


class Vocabulary:
    """The symbols a model knows, in the order of its embedding; symbol 0 (space) also stands for unknown ones."""

    def __init__(self, symbols: Sequence[str], tokenizer: str = "custom") -> None:
        self.symbols = tuple(symbols)
        self.ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.symbols)

    def split(self, text: str | Sequence[str]) -> list[str]:
        """The symbols of a text; of one that comes as a list of symbols, those."""
        return TOKENIZERS[self.tokenizer](text) if isinstance(text, str) else list(text)

    def encode(self, texts: Sequence[str | Sequence[str]]) -> Int[Tensor, "b nt"]:
        """One row of ids a text, padded with -1."""
        rows = [[self.ids.get(symbol, 0) for symbol in self.split(text)] for text in texts]
        width = max(map(len, rows))
        return torch.tensor([row + [PADDING] * (width - len(row)) for row in rows], dtype=torch.long)

    def unknown(self, texts: Sequence[str | Sequence[str]]) -> list[str]:
        """Symbols of the texts that the model never learnt and reads as a space, each once."""
        return sorted({symbol for text in texts for symbol in self.split(text)} - self.ids.keys())


def read_vocabulary(path: str | Path, tokenizer: str = "custom") -> Vocabulary:
    """Read a vocabulary file.

    Raises FileNotFoundError without the file, and ValueError for an empty one or one with a symbol twice.
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
        raise ValueError(f"vocabulary {path} holds {duplicates[:5]} more than once: each line must be another symbol")
    return Vocabulary(symbols, tokenizer)


def byte_vocabulary() -> Vocabulary:
    """The 256 bytes; needs no file."""
    return Vocabulary([chr(byte) for byte in range(256)], "byte")


def is_valid_unicode(value: Any, max_depth: int = MAX_DEPTH) -> bool:
    """Whether a value can be written down again: of Unicode, which half a surrogate is not, and of finite depth."""
    if isinstance(value, str):
        return value.isascii() or value == escape_surrogates(value)
    items = [*value, *value.values()] if isinstance(value, Mapping) else value
    return not isinstance(items, list) or (
        max_depth > 0 and all(is_valid_unicode(item, max_depth - 1) for item in items)
    )


def escape_surrogates(text: str) -> str:
    """The text, what is not Unicode in it as an escape."""
    return text.encode(errors="backslashreplace").decode()


def build_vocabulary(cfg: TrainConfig) -> Vocabulary:
    """The run's vocabulary file; for pinyin the released one unless the run has its own."""
    model, path = cfg.model, vocab_path(cfg)
    if model.tokenizer == "byte":
        return byte_vocabulary()
    if model.tokenizer == "pinyin" and model.tokenizer_path is None and not path.is_file():
        path = EMILIA_VOCAB
    return read_vocabulary(path, model.tokenizer)
