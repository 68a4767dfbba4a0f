"""Which frames are prompt and which are target; pure."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def prompt_lengths(
    lens: Int[Tensor, " b"], fractions: Float[Tensor, " b"], positions: Float[Tensor, " b"], mode: str
) -> Int[Tensor, " b"]:
    """Frames of each prompt, perhaps none: with mode `range` that fraction of its clip, with `per_sample` a part of
    that (`places`, in [0, 1)), with `min` the least of those for all of the batch, as in F5R-TTS."""
    max_frames = (lens * fractions).long()
    if mode == "range":
        return max_frames
    frames = (max_frames * positions).long()
    return frames.min().expand_as(frames) if mode == "min" else frames


def span_mask(first: Int[Tensor, " b"], last: Int[Tensor, " b"], length: int) -> Bool[Tensor, "b n"]:
    """True on frames `first` to `last` (excluded) of each item."""
    frame = torch.arange(length, device=first.device)
    return (frame >= first[:, None]) & (frame < last[:, None])


def random_spans(
    lens: Int[Tensor, " b"], fractions: Float[Tensor, " b"], positions: Float[Tensor, " b"], length: int
) -> Bool[Tensor, "b n"]:
    """One span an item, `fractions` of its frames long, at `places` (0 leftmost, 1 rightmost) of where it fits."""
    width = (fractions * lens).long()
    first = ((lens - width) * positions).long().clamp(min=0)
    return span_mask(first, first + width, length)
