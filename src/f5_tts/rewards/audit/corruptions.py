"""Corruptions of speech with a known effect, for the audit of rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.rewards.asr.error_rate import tokens
from f5_tts.rewards.asr.normal_form import language_of
from f5_tts.types import RewardInput

NOISE_DB = -5.0  # power of the white noise relative to the speech
OVERDRIVE = 10.0  # peak before clipping, relative to full scale
PAUSE_S = 1.0
NOISE_FLOOR = 1e-3  # RMS of an inserted pause: background noise rather than digital silence
SEARCH_RADIUS = 0.25  # search range around an estimated word boundary, as a share of the word's length
WINDOW_S = 0.02

Corruption = Callable[[RewardInput], RewardInput]


def dropped_word(item: RewardInput) -> RewardInput:
    """Cut out the middle word of the text."""
    first, last = word_edges(item, len(words_of(item.text)) // 2)
    return replace(item, audio=torch.cat([item.audio[:first], item.audio[last:]]))


def repeated_word(item: RewardInput) -> RewardInput:
    """Repeat the middle word of the text once."""
    first, last = word_edges(item, len(words_of(item.text)) // 2)
    return replace(item, audio=torch.cat([item.audio[:last], item.audio[first:]]))


def noise(item: RewardInput) -> RewardInput:
    """Add white noise, NOISE_DB relative to the speech, from a fixed seed."""
    white_noise = torch.randn(len(item.audio), generator=torch.Generator().manual_seed(0))
    return replace(item, audio=item.audio + 10 ** (NOISE_DB / 20) * item.audio.square().mean().sqrt() * white_noise)


def clipping(item: RewardInput) -> RewardInput:
    """Amplify the clip to OVERDRIVE times full scale and clip it to [-1, 1]."""
    return replace(item, audio=(item.audio * OVERDRIVE / item.audio.abs().max().clamp(min=NOISE_FLOOR)).clamp(-1, 1))


def long_pause(item: RewardInput) -> RewardInput:
    """Insert PAUSE_S seconds of quiet noise before the middle word."""
    position, _ = word_edges(item, len(words_of(item.text)) // 2)
    pause = NOISE_FLOOR * torch.randn(round(PAUSE_S * item.sample_rate), generator=torch.Generator().manual_seed(1))
    return replace(item, audio=torch.cat([item.audio[:position], pause, item.audio[position:]]))


def silence(item: RewardInput) -> RewardInput:
    """Replace the clip with zeros."""
    return replace(item, audio=torch.zeros_like(item.audio))


CORRUPTIONS: dict[str, Corruption] = {
    "dropped word": dropped_word,
    "repeated word": repeated_word,
    "noise": noise,
    "clipping": clipping,
    "long pause": long_pause,
    "silence": silence,
}


def words_of(text: str) -> list[str]:
    """Split a text into words, with numbers spelled out; each Chinese or Japanese character is a word."""
    return tokens(text, language_of(text), "word")


def word_edges(item: RewardInput, index: int) -> tuple[int, int]:
    """Estimate the first and last sample of a word.

    The clip is divided among the words in proportion to their letters. Each inner boundary then moves to the quietest
    place near it.
    """
    lengths = torch.tensor([len(word) + 1 for word in words_of(item.text)])
    boundaries = torch.cat([torch.zeros(1), lengths.cumsum(0) / lengths.sum()]) * len(item.audio)
    radius = int(SEARCH_RADIUS * (boundaries[index + 1] - boundaries[index]))
    inner = [quietest(item.audio, int(edge), radius, item.sample_rate) for edge in boundaries[1:-1]]
    edges = [0, *inner, len(item.audio)]
    return edges[index], edges[index + 1]


def quietest(clip: Float[Tensor, " nw"], position: int, radius: int, sample_rate: int) -> int:
    """Return the middle of the window with the least power near a sample."""
    window = round(WINDOW_S * sample_rate)
    start = max(0, position - radius - window // 2)
    near = clip[start : position + radius + window // 2]
    if len(near) < window:
        return position
    return start + int(near.unfold(0, window, 1).square().sum(dim=1).argmin()) + window // 2
