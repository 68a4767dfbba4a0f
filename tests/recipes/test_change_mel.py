from __future__ import annotations

import numpy as np
import pytest
import torch
from recipes.digits import change_mel
from recipes.digits.change_mel import CHANGES, NEGATIVES, SILENCE

CHANGED_LENGTH = {change_mel.stretch, change_mel.pad_silence}


@pytest.fixture
def mel() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 100, generator=generator) - 4


@pytest.mark.parametrize("change", [change for _, change in CHANGES], ids=lambda change: change.__name__)
def test_a_change_is_finite_repeats_with_its_seed_and_leaves_the_clip_as_it_was(mel, change):
    before = mel.clone()
    changed, again = (change(mel, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(changed, again) and torch.equal(mel, before)
    assert changed.isfinite().all() and changed.shape[1] == 100
    assert not torch.equal(changed, mel)
    if change not in CHANGED_LENGTH:
        assert changed.shape == mel.shape


@pytest.mark.parametrize("negative", NEGATIVES, ids=lambda negative: negative.__name__)
def test_a_negative_is_finite_and_as_long_as_its_clip(mel, negative):
    made = negative(mel, np.random.default_rng(5))
    assert made.shape == mel.shape and made.isfinite().all() and not torch.equal(made, mel)


def test_a_changed_clip_is_never_below_silence(mel):
    rng = np.random.default_rng(0)
    assert all(change_mel.change_mel(mel - 8, mel, rng).min() >= SILENCE for _ in range(20))


def test_a_faster_clip_is_shorter_by_the_factor(mel):
    lengths = {len(change_mel.stretch(mel, np.random.default_rng(seed))) for seed in range(200)}
    assert min(lengths) >= round(40 / 1.2) and max(lengths) <= round(40 / 0.85) and len(lengths) > 8


def test_warping_moves_a_peak_to_another_band():
    peak = torch.full((3, 100), -5.0)
    peak[:, 60] = 0.0
    bands = {int(change_mel.warp_bands(peak, np.random.default_rng(seed))[0].argmax()) for seed in range(100)}
    assert min(bands) >= 60 / 1.06 - 1 and max(bands) <= 60 / 0.94 + 1 and len(bands) > 4


def test_a_background_is_13_to_26_db_below_its_own_level():
    rng = np.random.default_rng(0)
    silence, other = torch.full((9, 4), -40.0), torch.full((5, 4), 1.0)
    for _ in range(20):
        loud = change_mel.add_background(silence, other, rng)
        assert loud.shape == silence.shape
        assert loud.min() >= -2.01 and loud.max() <= -0.49  # 1 - 3 to 1 - 1.5


def test_a_shuffled_clip_has_the_same_frames_in_pairs(mel):
    shuffled = change_mel.shuffle(mel, np.random.default_rng(1))
    pairs = {tuple(pair.flatten().tolist()) for pair in mel.split(2)}
    assert {tuple(pair.flatten().tolist()) for pair in shuffled.split(2)} == pairs
