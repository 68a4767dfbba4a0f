"""How a long text is spoken: what is said at once, for how long, and how the pieces are joined (pure).

The rules are those of published F5-TTS, so that its users hear what they are used to. Lengths of texts are UTF-8 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

BREAKS = re.compile(r"(?<=[;:,.!?])\s+|(?<=[；：，。！？])")  # after which a text may be cut
MAX_TOTAL_S = 22.0  # of reference and speech together; longer ones get worse
SHORT_TEXT, SHORT_TEXT_SPEED = 10, 0.3  # texts of fewer bytes are given more time: hurried, they lose words


def split_text(text: str, max_bytes: int) -> list[str]:
    """Pieces of a text to be spoken one at a time, cut after punctuation, as long as fits into `most` bytes.

    A piece without punctuation stays whole, however long. The space between two ASCII sentences does not count for the
    second of them, so a chunk ends with up to `most` bytes and never with a space.
    """
    chunks = [""]
    for sentence in BREAKS.split(text):
        if num_bytes(chunks[-1]) + num_bytes(sentence) > max_bytes:
            chunks.append("")
        chunks[-1] += with_trailing_space(sentence)
    return [chunk.strip() for chunk in chunks if chunk]


def chunk_size(reference_text: str, reference_s: float, speed: float) -> int:
    """Bytes that take as long as the reference leaves of `LONGEST_S`, at its own rate times `speed`."""
    return int(num_bytes(reference_text) / reference_s * (MAX_TOTAL_S - reference_s) * speed)


def with_full_stop(reference_text: str) -> str:
    """The reference's text with a sentence's end and a space after it; the Chinese full stop needs no space."""
    if reference_text.endswith((". ", "。")):
        return reference_text
    return reference_text + (" " if reference_text.endswith(".") else ". ")


def with_trailing_space(text: str) -> str:
    """The text, with a space if it ends with an ASCII character: what is joined with another text."""
    return text + " " if text[-1:] and text[-1].isascii() else text


def speech_frames(reference_frames: int, reference_text: str, text: str, speed: float) -> int:
    """Frames that `text` takes at the reference's frames per byte, `speed` times as fast."""
    effective_speed = SHORT_TEXT_SPEED if num_bytes(text) < SHORT_TEXT else speed
    return int(reference_frames / num_bytes(reference_text) * num_bytes(text) / effective_speed)


def gain(rms: float, target_rms: float) -> float:
    """What a reference is multiplied with for the model, and its speech divided by: quiet ones only are changed."""
    return max(1.0, target_rms / rms)


def cross_fade(waves: Sequence[Float[Tensor, " _"]], overlap: int) -> Float[Tensor, " nw"]:
    """One waveform of several: each fades in linearly while what is before it fades out.

    `overlap` is in samples, fewer where one of the two is shorter; 0 puts them end to end.
    """
    joined = waves[0]
    for wave in waves[1:]:
        length = min(overlap, len(joined), len(wave))
        fade_in = torch.linspace(0, 1, length, dtype=wave.dtype, device=wave.device)
        head, tail = joined[: len(joined) - length], joined[len(joined) - length :]
        joined = torch.cat([head, tail * fade_in.flip(0) + wave[:length] * fade_in, wave[length:]])
    return joined


def num_bytes(text: str) -> int:
    return len(text.encode())
