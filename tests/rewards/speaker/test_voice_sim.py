from __future__ import annotations

import sys
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

from f5_tts.rewards.audio import fingerprint
from f5_tts.rewards.speaker.similarity_reward import CACHE_SIZE
from f5_tts.rewards.speaker.voice_features import mel_filters, normalize_volume, pad_by_reflection, window_starts
from f5_tts.rewards.speaker.voice_sim import VoiceSim, load_encoder, published_weights
from f5_tts.types import RewardInput

SPEECH = Path(__file__).parents[1] / "speech"


@pytest.fixture(scope="module")
def voices() -> VoiceSim:
    return VoiceSim()


def pair(audio, reference) -> RewardInput:
    return RewardInput(audio=audio, sample_rate=16_000, text="", reference_audio=reference)


def similarity(voices: VoiceSim, inputs: list[RewardInput]) -> torch.Tensor:
    return voices.score(inputs)["sim"]


def test_two_seconds_of_quiet_speech_embed_as_in_the_published_code(voices, spoken):
    """Embed two windows, amplified by 13 dB.

    The expected value is Resemblyzer 0.1.4's own (speech/README.md).
    """
    clip = 0.05 * torch.cat([spoken("low_314"), spoken("low_9265")])
    golden = torch.from_numpy(np.load(SPEECH / "low_embedding.npy"))
    torch.testing.assert_close(voices.embed([clip], 16_000)[0], golden, atol=2e-6, rtol=0)


def test_the_same_voice_scores_higher_than_another_whatever_it_says(voices, spoken):
    same = similarity(voices, [pair(spoken(f"{v}_314"), spoken(f"{v}_9265")) for v in ("low", "high")])
    other = similarity(voices, [pair(spoken(f"low_{words}"), spoken(f"high_{words}")) for words in ("314", "9265")])
    assert same.min() > other.max() + 0.1


def test_a_clip_is_its_own_voice(voices, spoken):
    torch.testing.assert_close(similarity(voices, [pair(spoken("low_314"), spoken("low_314"))]), torch.ones(1))


def test_an_embedding_does_not_depend_on_its_batch(voices, spoken):
    clips = [spoken("low_314"), torch.cat([spoken("high_9265")] * 4), spoken("high_314")]
    together = voices.embed(clips, 16_000)
    alone = torch.cat([voices.embed([clip], 16_000) for clip in clips])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_24_khz_copy_is_the_same_voice_within_1e_2(voices, spoken):
    copy = torch.from_numpy(soxr.resample(spoken("low_314").numpy(), 16_000, 24_000))
    cosine = voices.embed([copy], 24_000) @ voices.embed([spoken("low_314")], 16_000).T
    torch.testing.assert_close(cosine, torch.ones(1, 1), atol=1e-2, rtol=0)


def test_a_clip_without_sound_scores_worst_one_without_a_reference_does_not_count_and_neighbours_are_left_alone(
    voices, spoken
):
    good, broken = spoken("low_314"), torch.full((8000,), inf)
    inputs = [pair(torch.zeros(0), good), pair(good, good), pair(good, torch.zeros(8000)), pair(broken, good)]
    with pytest.warns(UserWarning, match="worst score"):
        scores = voices.score([*inputs, pair(good, None)])
    torch.testing.assert_close(scores["sim"], torch.tensor([-1.0, 1.0, nan, -1.0, nan]), equal_nan=True)
    assert scores["unusable"].tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]


def test_a_batch_of_silence_is_a_batch_too(voices, spoken):
    with pytest.warns(UserWarning, match="worst score"):
        assert similarity(voices, [pair(torch.zeros(8000), spoken("low_314"))]).tolist() == [-1.0]


def test_references_are_told_apart_by_content_and_the_oldest_are_forgotten(spoken):
    voices = VoiceSim()
    clip = spoken("low_314")
    references = [clip * (1 + i / 10_000) for i in range(CACHE_SIZE)]
    voices._cache = {fingerprint(r, 16_000): torch.zeros(256) for r in references}
    first, last = pair(clip, references[0].clone()), pair(clip, references[-1].clone())
    assert similarity(voices, [first, last]).isnan().all()  # cached: the cache holds zeros for them
    assert similarity(voices, [pair(clip, clip * 0.9999)]).item() > 0.99  # one more than the cache holds
    assert len(voices._cache) == CACHE_SIZE
    assert similarity(voices, [first]).item() > 0.99  # removed from the cache, so embedded again
    assert similarity(voices, [last]).isnan().all()


@pytest.mark.parametrize(
    "duration_s, count",
    [(0.5, 1), (1.6, 1), (1.969, 1), (1.971, 2), (2.5, 2), (2.74, 3)],
)
def test_a_stretch_counts_once_three_quarters_of_it_are_within_the_clip(duration_s, count):
    """Expect the second window, from 0.77 s on, if the clip lasts 0.77 + 1.2 = 1.97 s, and the third at 2.74 s."""
    assert len(window_starts(round(16_000 * duration_s))) == count


def test_a_short_clip_runs_back_and_forth_until_it_is_long_enough():
    clip = torch.arange(1.0, 10_001.0)
    longer = pad_by_reflection(clip)
    assert len(longer) == 25_600
    torch.testing.assert_close(longer[:20_000], torch.cat([clip, clip.flip(0)]))
    torch.testing.assert_close(longer[20_000:], clip[:5600])
    assert len(pad_by_reflection(torch.ones(1600))) == 25_600 and len(pad_by_reflection(torch.ones(30_000))) == 30_000


def test_only_clips_below_minus_30_dbfs_are_made_louder():
    assert normalize_volume(torch.full((100,), 0.001)).mean().item() == pytest.approx(10**-1.5)
    assert normalize_volume(torch.full((100,), 0.1)).mean().item() == pytest.approx(0.1)


def test_mel_triangles_have_area_one_and_every_fifteenth_mel_is_one_kilohertz():
    filters = mel_filters(201, 8000.0)
    assert filters.shape == (40, 201)
    wide = filters[20:]  # wider than several bins of 40 Hz, so the sum approximates the integral
    torch.testing.assert_close(wide.sum(dim=1) * 40, torch.ones(20), atol=0.02, rtol=0)
    assert filters[:, 0].eq(0).all() and filters[:, -1].eq(0).all()


def test_a_missing_or_foreign_weights_file_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no speaker encoder at .*requirements-assets\.txt"):
        load_encoder(tmp_path / "pretrained.pt")
    torch.save({"model_state": {"lstm.weight_ih_l0": torch.zeros(1)}}, tmp_path / "pretrained.pt")
    with pytest.raises(ValueError, match=r"is not Resemblyzer's encoder.*linear\.bias.*requirements-assets\.txt"):
        load_encoder(tmp_path / "pretrained.pt")


def test_the_published_weights_are_found_without_importing_their_package():
    assert published_weights().is_file()
    assert "resemblyzer" not in sys.modules
