"""Chunking of long texts, durations of chunks, and cross-fading.

The rules are those of published F5-TTS, so results match it; only what it would leave too long is cut further. Text
lengths are counted in UTF-8 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.data.tokenizer import letters_with_marks

BREAKS = re.compile(r"(?<=[;:,.!?])\s+|(?<=[；：，。！？])")  # allowed places for a cut
MAX_TOTAL_S = 22.0  # reference and chunk together; longer sequences lose quality
MARKS = "।॥؟،؛۔…–—―、､｡．፡።፣፤፥፦፧፨។៕៖๏ฯ๚๛;·։׃၊။།༎෴"  # of sentences and clauses in other scripts
SHORT_TEXT, SHORT_TEXT_SPEED = 10, 0.3  # shorter texts (in bytes) are slowed down, else words get lost


def split_text(text: str, max_bytes: int) -> list[str]:
    """Split a text after punctuation into chunks of a maximum size in UTF-8 bytes.

    A sentence longer than that stays whole. The space between two ASCII sentences is not counted for the second one, so
    a chunk may have exactly the maximum size and never ends with a space.
    """
    chunks = [""]
    for sentence in BREAKS.split(text):
        if num_bytes(chunks[-1]) + num_bytes(sentence) > max_bytes:
            chunks.append("")
        chunks[-1] += with_trailing_space(sentence)
    return [chunk.strip() for chunk in chunks if chunk]


def split_for_stream(text: str, max_bytes: int) -> list[str]:
    """Split a text into chunks of this size, but for a first one of a quarter of it, which is spoken sooner."""
    first, *rest = split_text(text, max_bytes // 4)
    return fit_chunks([first, *split_text("".join(map(with_trailing_space, rest)), max_bytes)], max_bytes)


PIECES: tuple[Callable[[str], list[str]], ...] = (  # where a chunk that is too long is cut, in this order
    lambda text: re.split(rf"(?<=[{MARKS}])(?=[^{MARKS}])", text),
    lambda text: re.split(r"(?<=\s)(?=\S)", text),
    letters_with_marks,
)


def fit_chunks(chunks: Sequence[str], max_bytes: int) -> list[str]:
    """Cut chunks of more bytes further: after marks of any script, then at spaces, then between letters.

    A letter is never cut, and nothing is cut where there is no room at all.
    """
    cut = [part for chunk in chunks for part in (cut_text(chunk, max_bytes) if max_bytes > 0 else [chunk])]
    return [part.strip() for part in cut if part.strip()]


def cut_text(text: str, max_bytes: int, ways: Sequence[Callable[[str], list[str]]] = PIECES) -> list[str]:
    """Cut a text by the first of these ways into parts of at most this size, a longer piece by the ways after it."""
    parts = [""]
    for piece in ways[0](text):
        if num_bytes((parts[-1] + piece).strip()) <= max_bytes:
            parts[-1] += piece
        elif len(ways) > 1 and num_bytes(piece.strip()) > max_bytes:
            parts += with_even_end(cut_text(piece, max_bytes, ways[1:]), max_bytes, ways[1:])
        else:
            parts.append(piece)
    return parts


def with_even_end(parts: list[str], max_bytes: int, ways: Sequence[Callable[[str], list[str]]]) -> list[str]:
    """Cut the last two parts anew where the last is shorter than SHORT_TEXT: as evenly as two parts can be."""
    if num_bytes(parts[-1].strip()) >= SHORT_TEXT:
        return parts
    end = "".join(parts[-2:])
    cuts = (cut_text(end, size, ways) for size in range(num_bytes(end) // 2, max_bytes))
    return [*parts[:-2], *next((cut for cut in cuts if sum(map(bool, cut)) == 2), parts[-2:])]


def chunk_size(reference_text: str, reference_s: float, speed: float) -> int:
    """Compute the bytes of text that fit into MAX_TOTAL_S minus the reference, at its speaking rate times `speed`."""
    return int(num_bytes(reference_text) / reference_s * (MAX_TOTAL_S - reference_s) * speed)


def with_full_stop(reference_text: str) -> str:
    """Return the reference text with a full stop and a space at its end; a Chinese full stop needs no space."""
    if reference_text.endswith((". ", "。")):
        return reference_text
    return reference_text + (" " if reference_text.endswith(".") else ". ")


def with_trailing_space(text: str) -> str:
    """Append a space to a text that ends with an ASCII character, so that another text can follow."""
    return text + " " if text[-1:] and text[-1].isascii() else text


def speech_frames(reference_frames: int, reference_text: str, text: str, speed: float) -> int:
    """Compute the frames of a text from the frames per byte of the reference and the speed."""
    effective_speed = SHORT_TEXT_SPEED if num_bytes(text) < SHORT_TEXT else speed
    return int(reference_frames / num_bytes(reference_text) * num_bytes(text) / effective_speed)


def fixed_durations(total_s: float, reference_s: float, chunks: Sequence[str], overlap_s: float) -> list[float]:
    """Divide a duration of reference and speech among the chunks by their bytes.

    Returns for each the seconds of the reference and its own. Where there are several, the cross-fades that joining
    takes away come on top.
    """
    if len(chunks) == 1:
        return [total_s]
    left, sizes = total_s - reference_s + overlap_s * (len(chunks) - 1), list(map(num_bytes, chunks))
    return [reference_s + left * size / sum(sizes) for size in sizes]


def gain(rms: float, target_rms: float) -> float:
    """Compute the gain for the reference, at least 1, that raises a quiet one to the target RMS."""
    return max(1.0, target_rms / rms)


def cross_fade(waves: Sequence[Float[Tensor, " _"]], overlap: int) -> Float[Tensor, " nw"]:
    """Join waveforms with linear cross-fades.

    `overlap` is in samples; it is reduced where one of the two waveforms is shorter. With 0 they are concatenated.
    """
    joined = waves[0]
    for wave in waves[1:]:
        length = min(overlap, len(joined), len(wave))
        fade_in = torch.linspace(0, 1, length, dtype=wave.dtype, device=wave.device)
        head, tail = joined[: len(joined) - length], joined[len(joined) - length :]
        joined = torch.cat([head, tail * fade_in.flip(0) + wave[:length] * fade_in, wave[length:]])
    return joined


def num_bytes(text: str) -> int:
    """Count the UTF-8 bytes of a text."""
    return len(text.encode())
