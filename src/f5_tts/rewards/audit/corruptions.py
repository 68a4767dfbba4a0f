"""Corruptions of speech with a known effect, for the audit of rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from f5_tts.rewards.asr.error_rate import tokens
from f5_tts.rewards.asr.normal_form import language_of
from f5_tts.rewards.measures import f0_track
from f5_tts.types import RewardInput

NOISE_DB = -5.0  # power of the white noise relative to the speech
OVERDRIVE = 10.0  # peak before clipping, relative to full scale
PAUSE_S = 1.0
CLICKS_PER_S = 20
TYPICAL_F0 = 150.0  # Hz
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


def clicks(item: RewardInput) -> RewardInput:
    """Set single samples to the peak of the clip, CLICKS_PER_S a second, at random places from a fixed seed."""
    number = max(1, round(CLICKS_PER_S * len(item.audio) / item.sample_rate))
    places = torch.randint(len(item.audio), (number,), generator=torch.Generator().manual_seed(2))
    return replace(item, audio=item.audio.index_fill(0, places, item.audio.abs().max().item()))


def monotone(item: RewardInput) -> RewardInput:
    """Give every voiced sound the same F0, the clip's median: the phases of a spectrogram with its period as hop are 0.

    Where no F0 is found it is TYPICAL_F0.
    """
    track = f0_track(item.audio, item.sample_rate)
    hop = round(item.sample_rate / (track.median().item() if len(track) else TYPICAL_F0))
    size, window = 4 * hop, torch.hann_window(4 * hop)
    padded = F.pad(item.audio, (0, size))
    magnitudes = torch.stft(padded, size, hop, window=window, pad_mode="constant", return_complex=True).abs()
    centered = magnitudes * (1 - 2 * (torch.arange(len(magnitudes)) % 2))[:, None]  # the pulse in the middle of a frame
    wave = torch.istft(centered.to(torch.complex64), size, hop, window=window, length=len(item.audio))
    level = (item.audio.square().mean() / wave.square().mean().clamp(min=1e-12)).sqrt()
    return replace(item, audio=level * wave)


def silence(item: RewardInput) -> RewardInput:
    """Replace the clip with zeros."""
    return replace(item, audio=torch.zeros_like(item.audio))


CORRUPTIONS: dict[str, Corruption] = {
    "dropped word": dropped_word,
    "repeated word": repeated_word,
    "noise": noise,
    "clipping": clipping,
    "long pause": long_pause,
    "clicks": clicks,
    "monotone": monotone,
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
