from __future__ import annotations

import pytest
import torch
from torch import Tensor

from f5_tts.infer.silence import cut_at_pause, level_db, shorten_pauses, sound_mask, trim_silence

RATE = 1000  # 10 samples per window


def tone(seconds: float, height: float = 0.5) -> Tensor:
    """Generate a square wave, whose level is its height in every window."""
    signs = torch.tensor([1.0, -1.0]).repeat(round(seconds * RATE / 2))
    return height * signs


def silence(seconds: float) -> Tensor:
    return torch.zeros(round(seconds * RATE))


def test_level_is_power_in_decibels_of_each_10_ms():
    wave = torch.cat([tone(0.01, 1.0), tone(0.01, 0.1), silence(0.01), tone(0.004)])
    torch.testing.assert_close(level_db(wave, RATE), torch.tensor([0.0, -20.0, -100.0]))


def test_sound_is_what_is_less_than_40_db_below_the_loudest_however_quiet_the_recording():
    wave = torch.cat([tone(0.01, 1.0), tone(0.01, 0.011), tone(0.01, 0.009)])
    for loudness in (1.0, 1e-3):
        assert sound_mask(loudness * wave, RATE, 0.0).tolist() == [True, True, False]


def test_ends_are_trimmed_to_a_margin():
    wave = torch.cat([silence(0.3), tone(0.2), silence(0.4), tone(0.1), silence(0.3)])
    assert torch.equal(trim_silence(wave, RATE, 0.05), wave[250:1050])
    assert torch.equal(trim_silence(tone(0.104), RATE, 0.05), tone(0.104))  # the incomplete last window is kept


def test_a_short_recording_is_not_cut():
    wave = torch.cat([tone(0.5), silence(0.2), tone(0.3)])
    assert cut_at_pause(wave, RATE, 1.0) is wave


def test_a_long_recording_is_cut_in_the_middle_of_the_pause_in_its_second_half():
    wave = torch.cat([tone(1.0), silence(0.3), tone(1.7), silence(0.2), tone(2.0)])
    assert len(cut_at_pause(wave, RATE, 4.0)) == pytest.approx(3100, abs=10)


def test_without_a_pause_the_quietest_moment_is_cut():
    wave = torch.cat([tone(3.0), tone(0.2, 0.3), tone(2.0)])
    assert len(cut_at_pause(wave, RATE, 4.0)) == pytest.approx(3100, abs=10)


def test_a_cut_never_keeps_more_than_is_allowed():
    assert 2000 <= len(cut_at_pause(tone(9.0), RATE, 4.0)) <= 4000


def test_long_pauses_become_a_second_and_short_ones_stay():
    wave = torch.cat([silence(2.0), tone(0.5), silence(0.9), tone(0.5), silence(3.0), tone(0.5), silence(0.1)])
    shorter = torch.cat([silence(0.5), tone(0.5), silence(0.9), tone(0.5), silence(1.0), tone(0.5), silence(0.1)])
    assert torch.equal(shorten_pauses(wave, RATE), shorter)
