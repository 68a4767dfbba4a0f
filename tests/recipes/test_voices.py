from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from recipes.digits import train_speaker_judge, voices
from recipes.digits.make_corpus import DEV_VOICES, TEST_VOICES, TRAIN_VOICES, Voice
from torch.nn import functional as F

pytestmark = pytest.mark.slow
KNOWN = np.stack([voices.parameters(voice) for voice in TRAIN_VOICES])


# Voices


def test_no_voice_of_training_is_a_dev_or_test_voice():
    """Compare all parameters: each voice differs from each kept one by a tenth of the range in at least one of them."""
    trained = train_speaker_judge.training_voices()
    assert len(trained) == len({voice.name for voice in trained}) == 516
    for kept in (*DEV_VOICES, *TEST_VOICES):
        assert min(distance(voice, kept) for voice in trained if voice not in TRAIN_VOICES) > voices.FOREIGN
        assert all((voices.parameters(voice) != voices.parameters(kept)).any() for voice in TRAIN_VOICES)


def distance(one: Voice, other: Voice) -> float:
    """Compute the largest difference of two voices in any parameter, as a share of its range."""
    return float((np.abs(voices.parameters(one) - voices.parameters(other)) / np.ptp(KNOWN, axis=0)).max())


def test_random_voices_are_within_the_range_of_the_training_voices_and_depend_on_their_seed():
    drawn = np.stack([voices.parameters(voice) for voice in voices.random_voices(50, "any", 7)])
    assert (drawn >= KNOWN.min(axis=0)).all() and (drawn <= KNOWN.max(axis=0)).all()
    again, other = (np.stack([voices.parameters(v) for v in voices.random_voices(50, "x", seed)]) for seed in (7, 8))
    assert np.array_equal(drawn, again) and not np.array_equal(drawn, other)


def test_a_blur_keeps_a_constant_and_spreads_a_peak():
    constant, peak = torch.ones(1, 12, 20), F.pad(torch.ones(1, 1, 1), (9, 10, 5, 6))
    torch.testing.assert_close(voices.blurred(constant, 1.0), constant)
    smooth = voices.blurred(peak, 1.0)
    assert smooth.sum().item() == pytest.approx(1.0, abs=1e-5) and smooth.max() < 0.2
    assert voices.blurred(peak, 0.0) is peak


# Training


def test_the_margin_loss_is_cross_entropy_of_an_angle_that_is_larger_by_the_margin():
    """Take an embedding at 60 degrees to its own center and 70 degrees to the other one."""
    own = torch.tensor([1.0, 0.0])
    other = torch.tensor([math.cos(math.radians(130)), math.sin(math.radians(130))])
    embedding = torch.tensor([[1.0, math.sqrt(3)]])
    loss = voices.margin_loss(embedding, torch.stack([own, other]), torch.tensor([0]), margin=0.2, scale=30.0)
    gap = 30 * (math.cos(math.pi / 3 + 0.2) - math.cos(math.radians(70)))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-gap)), rel=1e-4)


# Trials


def test_error_rate_and_area_of_perfect_chance_and_known_scores():
    """Place one of four scores of the same voice below one of four others: AUC 15/16, equal error rate 1/4."""
    assert voices.Trials(same=[0.8, 0.9], other=[0.1, 0.2]).auc() == 1.0
    assert voices.Trials(same=[0.8, 0.9], other=[0.1, 0.2]).equal_error_rate() == 0.0
    assert voices.Trials(same=[0.5, 0.5], other=[0.5, 0.5]).auc() == 0.5
    mixed = voices.Trials(same=[0.4, 0.6, 0.7, 0.8], other=[0.1, 0.2, 0.3, 0.5])
    assert mixed.auc() == 15 / 16 and mixed.equal_error_rate() == 0.25


def test_trials_pair_each_clip_with_its_own_prompt_and_a_prompt_of_each_other_voice():
    items = voices.unseen_items("test")
    assert len(items) == 160 and {item.prompt.voice for item in items} == set(TEST_VOICES)
    numbers = {voice.name: float(index) for index, voice in enumerate(TEST_VOICES)}
    marks = [torch.tensor([numbers[item.prompt.voice.name]]) for item in items]
    pairs = list(zip(marks, marks, strict=True))
    one_hot = voices.verification_trials(items, pairs, lambda clips: torch.eye(4)[torch.cat(clips).long()])
    assert one_hot.same == [1.0] * 160 and one_hot.other == [0.0] * 480
