from __future__ import annotations

import numpy as np
import pytest
import torch
from recipes.digits import make_corpus as corpus
from recipes.digits import train_speaker_judge as recipe
from recipes.digits.make_corpus import TRAIN_VOICES

pytestmark = pytest.mark.slow

EXAM_TEXTS = {
    text for split in ("dev", "test") for texts in corpus.text_lists(corpus.SEED)[split].values() for text in texts
}


# Texts


def test_no_text_of_training_is_a_dev_or_test_string():
    texts = {
        text for voice in recipe.training_voices() for text in recipe.training_texts(voice, recipe.CLIPS_PER_VOICE)
    }
    assert len(texts) > 2000 and not texts & EXAM_TEXTS


# Training


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


@pytest.mark.slow
def test_three_updates_on_real_speech_give_an_encoder_that_can_be_saved_and_read(tmp_path):
    from f5_tts.rewards.speaker.ecapa_sim import load_encoder

    features, labels = recipe.training_clips(TRAIN_VOICES, 4)
    assert len(features) == len(labels) == 64 and labels.tolist() == sorted(labels.tolist())
    encoder = recipe.train(features, labels, updates=3)
    recipe.save(encoder, tmp_path / "model.safetensors")
    read, clip = load_encoder(tmp_path / "model.safetensors"), features[0][None]
    torch.testing.assert_close(read(clip), encoder(clip), atol=2e-2, rtol=2e-2)
