from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from recipes.digits import make_corpus as corpus
from recipes.digits import train_speaker_judge as recipe
from recipes.digits.make_corpus import DEV_VOICES, TEST_VOICES, TRAIN_VOICES
from torch.nn import functional as F

pytestmark = pytest.mark.slow

EXAM_TEXTS = {
    text for split in ("dev", "test") for texts in corpus.text_lists(corpus.SEED)[split].values() for text in texts
}


# Voices and texts


def test_no_voice_of_training_is_a_dev_or_test_voice():
    """Compare all parameters: each voice differs from each kept one by a tenth of the range in at least one of them."""
    voices = recipe.training_voices()
    known = np.stack([recipe.parameters(voice) for voice in TRAIN_VOICES])
    ranges = np.ptp(known, axis=0)
    assert len(voices) == len({voice.name for voice in voices}) == 516
    for kept in (*DEV_VOICES, *TEST_VOICES):
        distances = [
            np.abs((recipe.parameters(voice) - recipe.parameters(kept)) / ranges).max()
            for voice in recipe.random_voices(500)
        ]
        assert min(distances) > recipe.FOREIGN
        assert all((recipe.parameters(voice) != recipe.parameters(kept)).any() for voice in TRAIN_VOICES)


def test_random_voices_are_within_the_range_of_the_training_voices():
    known = np.stack([recipe.parameters(voice) for voice in TRAIN_VOICES])
    drawn = np.stack([recipe.parameters(voice) for voice in recipe.random_voices(500)])
    assert (drawn >= known.min(axis=0)).all() and (drawn <= known.max(axis=0)).all()


def test_no_text_of_training_is_a_dev_or_test_string():
    texts = {
        text for voice in recipe.training_voices() for text in recipe.training_texts(voice, recipe.CLIPS_PER_VOICE)
    }
    assert len(texts) > 2000 and not texts & EXAM_TEXTS


# Training


def test_the_margin_loss_is_cross_entropy_of_an_angle_that_is_larger_by_the_margin():
    """Take an embedding at 60 degrees to its own center and 70 degrees to the other one."""
    own = torch.tensor([1.0, 0.0])
    other = torch.tensor([math.cos(math.radians(130)), math.sin(math.radians(130))])
    embedding = torch.tensor([[1.0, math.sqrt(3)]])
    loss = recipe.margin_loss(embedding, torch.stack([own, other]), torch.tensor([0]))
    gap = recipe.SCALE * (math.cos(math.pi / 3 + recipe.MARGIN) - math.cos(math.radians(70)))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-gap)), rel=1e-4)


def test_the_learning_rate_rises_and_falls_to_0():
    factors = [recipe.learning_rate_factor(update, 900) for update in (0, recipe.WARMUP, 450, 899)]
    assert factors[0] == pytest.approx(1 / recipe.WARMUP) and factors[2] == pytest.approx(0.5)
    assert factors[1] > 0.98 and factors[3] < 1e-4


def test_an_augmented_batch_has_a_mean_of_0_and_repeats_with_its_seed():
    batch = torch.randn(4, 30, 64, generator=torch.Generator().manual_seed(0))
    one, two = (recipe.augment(batch, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one, two) and not torch.equal(one, batch)
    torch.testing.assert_close(one.mean(dim=(1, 2)), torch.zeros(4), atol=1e-6, rtol=0)


def test_a_crop_has_the_same_length_whatever_the_clip():
    rng = np.random.default_rng(0)
    assert {len(recipe.crop(torch.zeros(frames, 64), rng)) for frames in (20, 90, 91, 300)} == {recipe.CROP_FRAMES}


def test_a_blur_keeps_a_constant_and_spreads_a_peak():
    constant, peak = torch.ones(1, 12, 20), F.pad(torch.ones(1, 1, 1), (9, 10, 5, 6))
    torch.testing.assert_close(recipe.blurred(constant, 1.0), constant)
    smooth = recipe.blurred(peak, 1.0)
    assert smooth.sum().item() == pytest.approx(1.0, abs=1e-5) and smooth.max() < 0.2
    assert recipe.blurred(peak, 0.0) is peak


@pytest.mark.slow
def test_three_updates_on_real_speech_give_an_encoder_that_can_be_saved_and_read(tmp_path):
    from f5_tts.rewards.speaker.ecapa_sim import load_encoder

    features, labels = recipe.training_clips(TRAIN_VOICES, 4)
    assert len(features) == len(labels) == 64 and labels.tolist() == sorted(labels.tolist())
    encoder = recipe.train(features, labels, updates=3)
    recipe.save(encoder, tmp_path / "model.safetensors")
    read, clip = load_encoder(tmp_path / "model.safetensors"), features[0][None]
    torch.testing.assert_close(read(clip), encoder(clip), atol=2e-2, rtol=2e-2)


# Measurement


def test_error_rate_and_area_of_perfect_chance_and_known_scores():
    """Place one of four scores of the same voice below one of four others: AUC 15/16, equal error rate 1/4."""
    assert recipe.Trials(same=[0.8, 0.9], other=[0.1, 0.2]).auc() == 1.0
    assert recipe.Trials(same=[0.8, 0.9], other=[0.1, 0.2]).equal_error_rate() == 0.0
    assert recipe.Trials(same=[0.5, 0.5], other=[0.5, 0.5]).auc() == 0.5
    mixed = recipe.Trials(same=[0.4, 0.6, 0.7, 0.8], other=[0.1, 0.2, 0.3, 0.5])
    assert mixed.auc() == 15 / 16 and mixed.equal_error_rate() == 0.25


def test_trials_pair_each_clip_with_its_own_prompt_and_a_prompt_of_each_other_voice():
    items = recipe.unseen_items("test")
    assert len(items) == 160 and {item.prompt.voice for item in items} == set(TEST_VOICES)
    numbers = {voice.name: float(index) for index, voice in enumerate(TEST_VOICES)}
    marks = [torch.tensor([numbers[item.prompt.voice.name]]) for item in items]
    pairs = list(zip(marks, marks, strict=True))
    one_hot = recipe.verification_trials(items, pairs, lambda clips: torch.eye(4)[torch.cat(clips).long()])
    assert one_hot.same == [1.0] * 160 and one_hot.other == [0.0] * 480
