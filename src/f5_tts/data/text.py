"""Text -> token ids, by a vocabulary file with one symbol a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

PADDING = -1


class Vocabulary:
    """The symbols a model knows, in the order of its embedding; symbol 0 (space) also stands for unknown ones."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self.ids = {symbol: index for index, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, texts: Sequence[str]) -> Int[Tensor, "b nt"]:
        """One row of ids a text, one id a character, padded with -1."""
        rows = [[self.ids.get(symbol, 0) for symbol in text] for text in texts]
        width = max(map(len, rows))
        return torch.tensor([row + [PADDING] * (width - len(row)) for row in rows], dtype=torch.long)


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Read a vocabulary file.

    Raises FileNotFoundError without the file, and ValueError for an empty one or one with a symbol twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no vocabulary at {path}: set model.tokenizer_path to one symbol a line")
    symbols = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if symbols == [""]:
        raise ValueError(f"vocabulary {path} is empty: it needs one symbol a line, space first")
    twice = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
    if twice:
        raise ValueError(f"vocabulary {path} holds {twice[:5]} more than once: each line must be another symbol")
    return Vocabulary(symbols)
