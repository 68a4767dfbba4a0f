"""Speech made worse in one known way at a time, so that one knows what a reward should say of it (pure)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.rewards.asr.error_rate import language_of, tokens
from f5_tts.types import RewardInput

NOISE_DB = -5.0  # of white noise below the speech
OVERDRIVE = 10.0  # times full scale, cut off at full scale
PAUSE_S = 1.0
NOISE_FLOOR = 1e-3  # of a pause: as quiet as a room, not as digital silence
SEARCH_RADIUS = 0.25  # of a word's length: how far from where it is guessed its edge is looked for
WINDOW_S = 0.02

Corruption = Callable[[RewardInput], RewardInput]


def dropped_word(item: RewardInput) -> RewardInput:
    """Without the word in the middle of its text."""
    first, last = word_edges(item, len(words_of(item.text)) // 2)
    return replace(item, audio=torch.cat([item.audio[:first], item.audio[last:]]))


def repeated_word(item: RewardInput) -> RewardInput:
    """With that word said twice."""
    first, last = word_edges(item, len(words_of(item.text)) // 2)
    return replace(item, audio=torch.cat([item.audio[:last], item.audio[first:]]))


def noise(item: RewardInput) -> RewardInput:
    """White noise over it, the same for all clips."""
    white_noise = torch.randn(len(item.audio), generator=torch.Generator().manual_seed(0))
    return replace(item, audio=item.audio + 10 ** (NOISE_DB / 20) * item.audio.square().mean().sqrt() * white_noise)


def clipping(item: RewardInput) -> RewardInput:
    """Far too loud, and cut off."""
    return replace(item, audio=(item.audio * OVERDRIVE / item.audio.abs().max().clamp(min=NOISE_FLOOR)).clamp(-1, 1))


def long_pause(item: RewardInput) -> RewardInput:
    """A pause between the word in the middle and the one before."""
    position, _ = word_edges(item, len(words_of(item.text)) // 2)
    pause = NOISE_FLOOR * torch.randn(round(PAUSE_S * item.sample_rate), generator=torch.Generator().manual_seed(1))
    return replace(item, audio=torch.cat([item.audio[:position], pause, item.audio[position:]]))


def silence(item: RewardInput) -> RewardInput:
    """Nothing at all."""
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
    """Its words, numbers spelled out; of Chinese and Japanese each character."""
    return tokens(text, language_of(text), "word")


def word_edges(item: RewardInput, index: int) -> tuple[int, int]:
    """The samples between which a word is said: words share the clip by their letters, an edge within it is then moved
    to the quietest place near by."""
    lengths = torch.tensor([len(word) + 1 for word in words_of(item.text)])
    boundaries = torch.cat([torch.zeros(1), lengths.cumsum(0) / lengths.sum()]) * len(item.audio)
    radius = int(SEARCH_RADIUS * (boundaries[index + 1] - boundaries[index]))
    inner = [quietest(item.audio, int(edge), radius, item.sample_rate) for edge in boundaries[1:-1]]
    edges = [0, *inner, len(item.audio)]
    return edges[index], edges[index + 1]


def quietest(clip: Float[Tensor, " nw"], position: int, radius: int, sample_rate: int) -> int:
    """The middle of the window of least power within `reach` samples of `place`."""
    window = round(WINDOW_S * sample_rate)
    start = max(0, position - radius - window // 2)
    near = clip[start : position + radius + window // 2]
    if len(near) < window:
        return position
    return start + int(near.unfold(0, window, 1).square().sum(dim=1).argmin()) + window // 2
