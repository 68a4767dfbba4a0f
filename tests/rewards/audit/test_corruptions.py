from __future__ import annotations

import pytest
import torch
from tests.rewards.test_measures import RATE as VOICE_RATE
from tests.rewards.test_measures import voice
from torch import Tensor

from f5_tts.rewards.audit.corruptions import (
    CORRUPTIONS,
    clicks,
    clipping,
    dropped_word,
    long_pause,
    monotone,
    noise,
    repeated_word,
    silence,
    word_edges,
)
from f5_tts.rewards.measures import f0_spread, f0_track
from f5_tts.types import RewardInput

RATE = 1_000


def said(level: float, seconds: float) -> Tensor:
    """Generate a word as a square wave, so that every sample has its level."""
    return level * torch.tensor([1.0, -1.0]).repeat(round(seconds * RATE / 2))


GAP = torch.zeros(40)
WORDS = [said(0.1, 0.4), said(0.2, 0.46), said(0.3, 0.36)]  # three words of four letters, with gaps of 40 ms


@pytest.fixture
def item() -> RewardInput:
    return RewardInput(
        audio=torch.cat([WORDS[0], GAP, WORDS[1], GAP, WORDS[2]]), sample_rate=RATE, text="four nine five"
    )


def test_the_edges_of_a_word_lie_in_the_gaps_around_it(item):
    """Divide 1300 samples into thirds, at 433 and 866; the gaps are at 400-440 and 900-940."""
    first, last = word_edges(item, 1)
    assert 400 <= first <= 440 and 900 <= last <= 940
    assert word_edges(item, 0) == (0, first) and word_edges(item, 2) == (last, 1300)


def test_a_dropped_word_is_gone_and_the_others_are_whole(item):
    left = dropped_word(item).audio.abs()
    assert sorted({round(value, 3) for value in left.tolist()} - {0.0}) == [0.1, 0.3]
    assert (left == 0.1).sum() == 400 and (left - 0.3).abs().lt(1e-6).sum() == 360


def test_a_repeated_word_is_there_twice_and_the_others_once(item):
    more = repeated_word(item).audio.abs()
    assert [(more - level).abs().lt(1e-6).sum().item() for level in (0.1, 0.2, 0.3)] == [400, 920, 360]


def test_a_pause_of_a_second_comes_between_words(item):
    paused = long_pause(item).audio
    place, _ = word_edges(item, 1)
    assert torch.equal(torch.cat([paused[:place], paused[place + RATE :]]), item.audio)
    assert paused[place : place + RATE].abs().max() < 0.01


def test_twenty_clicks_a_second_are_single_samples_at_the_peak(item):
    changed = clicks(item).audio != item.audio
    assert 20 <= changed.sum() <= 26  # of 1.3 s; places that are at the peak already do not change
    assert clicks(item).audio[changed].unique().tolist() == pytest.approx([0.3])


def test_monotone_speech_has_the_median_f0_and_the_level_of_the_clip():
    """Use a voice of eight harmonics that swings by four semitones around 150 Hz."""
    audio = voice(4.0)
    flat = monotone(RewardInput(audio=audio, sample_rate=VOICE_RATE, text="one")).audio
    assert f0_spread(audio, VOICE_RATE) > 3 and f0_spread(flat, VOICE_RATE) < 0.1
    assert f0_track(flat, VOICE_RATE).median() == pytest.approx(150, rel=0.03)
    assert flat.square().mean() == pytest.approx(audio.square().mean().item(), rel=1e-3)


def test_noise_is_five_decibels_below_the_speech(item):
    hiss = noise(item).audio - item.audio
    ratio = 10 * (hiss.square().mean() / item.audio.square().mean()).log10()
    assert ratio.item() == pytest.approx(-5, abs=0.3)
    assert torch.equal(noise(item).audio, noise(item).audio)


def test_clipping_cuts_at_full_scale(item):
    """Amplify by 10 / 0.3, where 0.3 is the peak: 0.1 becomes 3.3."""
    loud = clipping(item).audio.abs()
    assert set(loud.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_touches_the_audio_alone_and_leaves_the_original(name: str, item: RewardInput):
    before = item.audio.clone()
    changed = CORRUPTIONS[name](item)
    assert torch.equal(item.audio, before)
    assert (changed.text, changed.sample_rate) == (item.text, item.sample_rate)
    assert len(changed.audio) != len(before) or not torch.equal(changed.audio, before)
    assert torch.equal(silence(item).audio, torch.zeros(1300))


def test_a_word_alone_is_all_of_its_clip():
    alone = RewardInput(audio=WORDS[0], sample_rate=RATE, text="four")
    assert word_edges(alone, 0) == (0, 400)
    assert len(dropped_word(alone).audio) == 0
