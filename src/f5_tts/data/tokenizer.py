"""Tokenizers, which split a text into symbols, and vocabularies (files of one symbol per line), which number them."""

from __future__ import annotations

import unicodedata
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from f5_tts.config.schema import TrainConfig, vocab_path
from f5_tts.files import write_atomically

PADDING = -1
EMILIA_VOCAB = Path(__file__).parents[1] / "infer/examples/vocab.txt"  # of published weights, where F5-TTS has it
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
    """Symbols in the order of the model's text embedding; symbol 0 (space) also stands for unknown ones.

    As in F5-TTS, the model has a row for each different symbol, and the last of equal ones counts.
    """

    def __init__(self, symbols: Sequence[str], tokenizer: str = "custom", file_notes: Sequence[str] = ()) -> None:
        self.symbols = with_space(symbols)
        indices = {symbol: index for index, symbol in enumerate(self.symbols)}
        self.size = len(indices)
        self.ids = {symbol: index for symbol, index in indices.items() if index < self.size}
        self.tokenizer, self.file_notes = tokenizer, tuple(file_notes)

    def __len__(self) -> int:
        return self.size

    @property
    def starts_with_space(self) -> bool:
        """Check that unknown symbols are read as the space; bytes know no unknown ones."""
        return self.tokenizer == "byte" or self.symbols[:1] == (" ",)

    @property
    def notes(self) -> list[str]:
        """Describe what is unusual about the file and its symbols."""
        notes = list(self.file_notes)
        if not self.starts_with_space:
            notes.append(f"symbol 0 is {self.symbols[0]!r}, not the space: unknown symbols are read as it")
        if repeated := sorted(symbol for symbol, num in Counter(self.symbols).items() if num > 1):
            rowless = [symbol for symbol in self.symbols[self.size :] if symbol not in self.ids]
            lost = f"; {rowless[:5]} have no row and are unknown" if rowless else ""
            notes.append(f"{repeated[:5]} are there more than once: the last line counts, as in F5-TTS{lost}")
        return notes

    def split(self, text: str | Sequence[str]) -> list[str]:
        """Split a text into symbols; a list of symbols is returned as is."""
        return TOKENIZERS[self.tokenizer](self.compose(text)) if isinstance(text, str) else list(text)

    def compose(self, text: str) -> str:
        """Write each letter with its marks as the vocabulary has it: composed (NFC), as it is, or decomposed.

        A letter that it has in no form stays as it is.
        """
        if text.isascii() or self.tokenizer == "byte":
            return text
        return "".join(map(self.known_form, letters_with_marks(text)))

    def known_form(self, letter: str) -> str:
        """Return the form of a letter with its marks that the vocabulary has."""
        forms = (unicodedata.normalize("NFC", letter), letter, unicodedata.normalize("NFD", letter))
        return next((form for form in forms if self.ids.keys() >= set(form)), letter)

    def encode(self, texts: Sequence[str | Sequence[str]]) -> Int[Tensor, "b nt"]:
        """Encode texts as rows of token ids, padded with -1."""
        rows = [[self.ids.get(symbol, 0) for symbol in self.split(text)] for text in texts]
        width = max(map(len, rows))
        return torch.tensor([row + [PADDING] * (width - len(row)) for row in rows], dtype=torch.long)

    def unknown(self, texts: Sequence[str | Sequence[str]]) -> list[str]:
        """List the texts' symbols that are not in the vocabulary, which the model reads as a space, each once."""
        return sorted({symbol for text in texts for symbol in self.split(text)} - self.ids.keys())

    def knows(self, text: str | Sequence[str]) -> bool:
        """Check whether the vocabulary has a symbol of the text other than white space."""
        return any(symbol in self.ids and symbol.strip() for symbol in self.split(text))


def with_space(symbols: Sequence[str]) -> tuple[str, ...]:
    """Return the symbols with an empty first one as the space, unless that is another one: an editor stripped it."""
    is_stripped = bool(symbols) and symbols[0] == "" and " " not in symbols
    return (" ", *symbols[1:]) if is_stripped else tuple(symbols)


def with_new_symbols(old: Sequence[str], new: Iterable[str]) -> list[str]:
    """Append the symbols of `new` that `old` lacks, each once and in their order; an empty one is none."""
    return list(dict.fromkeys([*old, *filter(None, new)]))


def letters_with_marks(text: str) -> list[str]:
    """Split a text into characters, each with the combining marks (or the Hangul vowels and finals) that follow it."""
    letters: list[str] = []
    for character in text:
        if letters and (unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff"):
            letters[-1] += character
        else:
            letters.append(character)
    return letters


def read_vocabulary(path: str | Path, tokenizer: str = "custom") -> Vocabulary:
    """Read a vocabulary file; its notes say what is unusual about the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty or not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no vocabulary at {path}: set model.tokenizer_path to one symbol a line")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"vocabulary {path} is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    symbols = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    if symbols == [""]:
        raise ValueError(f"vocabulary {path} is empty: it needs one symbol a line, space first")
    return Vocabulary(symbols, tokenizer, [f"{path}: {note}" for note in file_notes(data, symbols)])


def write_vocabulary(symbols: Sequence[str], path: Path) -> None:
    """Write a vocabulary file: one symbol a line."""
    text = "\n".join(symbols) + "\n"
    write_atomically(path, lambda tmp_path: tmp_path.write_text(text, encoding="utf-8"))


def file_notes(data: bytes, symbols: Sequence[str]) -> list[str]:
    """Describe what is unusual about the bytes and lines of a vocabulary file, and how it is read."""
    notes = {
        "a byte order mark is at its beginning and left out": data.startswith(BOM_UTF8),
        "its lines end with CRLF, read as any line end": b"\r\n" in data,
        "its first line is empty and read as the space": symbols[0] != with_space(symbols)[0],
        f"its last line has no line end; it is the symbol {symbols[-1]!r}": not data.endswith((b"\n", b"\r")),
        "its last line is empty: a symbol of no text, and a row of the model": symbols[-1] == "",
    }
    return [note for note, applies in notes.items() if applies]


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


def require_space(vocabulary: Vocabulary, source: str) -> None:
    """Raise ValueError for a vocabulary whose first symbol is not the space, where a new model would be made of it."""
    if not vocabulary.starts_with_space:
        raise ValueError(
            f"{source}: line 1 must be the space, as which unknown symbols are read; it is {vocabulary.symbols[0]!r}: "
            "put a line with one space before it"
        )


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
