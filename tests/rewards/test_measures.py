"""Measures of clips: signals whose F0, clicks and clipping are known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from f5_tts.rewards.measures import MEASURES, clicks_per_second, f0_spread, f0_track, measure
from f5_tts.types import RewardInput

RATE = 16_000
RECORDINGS = sorted(Path("data/mini_custom/wavs").glob("*.flac"))[::20]


def voice(semitones: float, seconds: float = 2.0, f0: float = 150.0) -> Tensor:
    """Make a voice of eight harmonics whose F0 swings by so many semitones to both sides, once a second."""
    t = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    frequency = f0 * 2 ** (semitones / 12 * torch.sin(2 * torch.pi * t))
    phase = 2 * torch.pi * frequency.cumsum(0) / RATE
    return 0.1 * torch.stack([torch.cos(k * phase) / k for k in range(1, 9)]).sum(dim=0).float()


@pytest.mark.parametrize("f0", [80.0, 150.0, 300.0])
def test_f0_of_a_steady_voice_is_found_and_has_hardly_any_spread(f0: float):
    track = f0_track(voice(0, f0=f0), RATE)
    torch.testing.assert_close(track, torch.full_like(track, f0), rtol=0.02, atol=0)
    assert f0_spread(voice(0, f0=f0), RATE) < 0.1


def test_the_spread_of_a_swinging_voice_follows_from_the_quantiles_of_a_sine():
    """A sine of amplitude A has the quantiles ±A sin(0.34 π) at 16 and 84 %."""
    assert f0_spread(voice(4.0), RATE) == pytest.approx(4.0 * math.sin(0.34 * math.pi), rel=0.05)


def test_noise_and_a_clip_shorter_than_a_window_have_no_f0():
    noise = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    assert math.isnan(f0_spread(noise, RATE)) and math.isnan(f0_spread(noise[:400], RATE))


def test_wrong_samples_and_cuts_are_clicks_and_speech_has_none():
    speech = torch.cat([torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in RECORDINGS])
    assert clicks_per_second(speech, RATE) == 0
    for name, damaged in (("wrong sample", voice(2.0)), ("cut", voice(2.0))):
        if name == "cut":
            damaged = torch.cat([damaged[:9_000], damaged[9_037:]])
        else:
            damaged[9_000] += 0.2
        assert clicks_per_second(damaged, RATE) * len(damaged) / RATE == pytest.approx(1), name


def test_all_measures_of_a_clip_and_none_of_silence():
    audio = torch.cat([voice(0, 1.0), torch.zeros(RATE // 2), voice(0, 0.5)])
    audio[::100] = 1.0  # one in a hundred at full scale
    found = measure(RewardInput(audio=audio, sample_rate=RATE, text="One, two."))
    assert (found["speech_rate"], found["clipped"]) == pytest.approx((6 / 2, 0.01))
    quiet = torch.cat([voice(0, 1.0), torch.zeros(RATE // 2), voice(0, 0.5)])
    assert measure(RewardInput(audio=quiet, sample_rate=RATE, text="One"))["pause"] == pytest.approx(0.5)
    assert tuple(found) == MEASURES
    assert measure(RewardInput(audio=torch.zeros(RATE), sample_rate=RATE, text="One")) == {}
