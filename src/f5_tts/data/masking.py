"""Masks of prompt and target frames, as pure functions."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def prompt_lengths(
    lens: Int[Tensor, " b"], fractions: Float[Tensor, " b"], positions: Float[Tensor, " b"], mode: str
) -> Int[Tensor, " b"]:
    """Return the number of prompt frames of each item, possibly zero.

    Mode `range` takes the fraction of each clip, `per_sample` a share of that, in [0, 1), given for each item, and
    `min` the minimum of these over the batch, as in F5R-TTS.
    """
    max_frames = (lens * fractions).long()
    if mode == "range":
        return max_frames
    frames = (max_frames * positions).long()
    return frames.min().expand_as(frames) if mode == "min" else frames


def span_mask(first: Int[Tensor, " b"], last: Int[Tensor, " b"], length: int) -> Bool[Tensor, "b n"]:
    """Return a mask that is True on frames `first` to `last` (exclusive) of each item."""
    frame = torch.arange(length, device=first.device)
    return (frame >= first[:, None]) & (frame < last[:, None])


def random_spans(
    lens: Int[Tensor, " b"], fractions: Float[Tensor, " b"], positions: Float[Tensor, " b"], length: int
) -> Bool[Tensor, "b n"]:
    """Return a mask of one span per item, by its share of the frames and its place (0 leftmost, 1 rightmost)."""
    width = (fractions * lens).long()
    first = ((lens - width) * positions).long().clamp(min=0)
    return span_mask(first, first + width, length)
