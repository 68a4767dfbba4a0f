from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.data.audio import load_audio
from f5_tts.model.build import build_vocoder
from f5_tts.model.mel import LogMel
from f5_tts.rewards.distill_mos import SEGMENT, DistillMos, load_network, published_weights, segments
from f5_tts.types import RewardInput

pytestmark = pytest.mark.slow

RATE = 16_000
WAVS = Path(__file__).parents[2] / "data" / "mini_custom" / "wavs"
NAMES = ["dev_00_dev_prompt_0", "test_02_test_prompt_0"]


@pytest.fixture(scope="module")
def judge() -> DistillMos:
    return DistillMos()


@pytest.fixture(scope="module")
def recordings() -> list[torch.Tensor]:
    return [load_audio(WAVS / f"{name}.flac", RATE) for name in NAMES]


def mos(judge: DistillMos, clips: list[torch.Tensor]) -> torch.Tensor:
    return judge.score([RewardInput(audio=clip, sample_rate=RATE, text="") for clip in clips])["mos"]


def noise(samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))


def test_scores_are_those_of_the_published_code(judge, recordings):
    """Score one short clip and one of two segments; the expected values are those of distillmos 0.9.1 itself."""
    torch.testing.assert_close(
        mos(judge, [recordings[0], noise(200_000)]), torch.tensor([1.772074, 1.238452]), atol=2e-4, rtol=0
    )
    assert "distillmos" not in sys.modules


def test_recordings_sound_better_than_noisy_and_vocoded_copies(judge, recordings):
    model = compose_config("F5TTS_Mini", [], TrainConfig).model
    mel, vocoder = LogMel(model.mel_spec), build_vocoder(model)
    noisy = [clip + 0.3 * noise(len(clip)) for clip in recordings]
    vocoded = [vocoder(mel(clip[None]), torch.tensor([mel(clip[None]).shape[1]]))[0] for clip in recordings]
    clean, with_noise, copied = (mos(judge, clips).mean() for clips in (recordings, noisy, vocoded))
    assert clean > with_noise + 0.3 and clean > copied + 0.1


def test_a_clip_that_cannot_be_scored_gets_the_worst_score_and_loudness_does_not_count(judge, recordings):
    clip = recordings[0]
    inputs = [RewardInput(audio=audio, sample_rate=RATE, text="") for audio in (clip, 0.5 * clip, torch.zeros(8000))]
    with pytest.warns(UserWarning, match="worst score"):
        scores = judge.score(inputs)
    assert scores["mos"][2] == 1.0 and scores["unusable"].tolist() == [0.0, 0.0, 1.0]
    torch.testing.assert_close(scores["mos"][1], scores["mos"][0], atol=1e-4, rtol=0)


def test_segments_overlap_evenly_from_start_to_end():
    """Cut 16,001 samples more than a segment: three segments, which start at 0, 8000 and 16,001."""
    clip = torch.arange(SEGMENT + 16_001.0)
    assert segments(clip)[:, 0].tolist() == [0.0, 8000.0, 16_001.0]
    assert segments(clip)[-1, -1] == clip[-1]
    assert segments(clip[:SEGMENT]).shape == (1, SEGMENT)
    padded = segments(clip[:100])
    assert padded.shape == (1, SEGMENT) and padded.sum() == clip[:100].sum()


def test_the_number_of_parameters_is_that_of_the_network(judge):
    assert sum(part.numel() for part in judge.network.parameters()) == DistillMos.num_parameters


def test_a_missing_or_other_file_is_refused_with_the_command(tmp_path):
    path = tmp_path / "distill_mos_v7.pt"
    with pytest.raises(FileNotFoundError, match=r"no weights at .*pip install --no-deps -r requirements-assets\.txt"):
        load_network(path)
    path.write_bytes(published_weights().read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        load_network(path)
    torch.save({"model": {"weight": torch.zeros(2)}}, path)
    with pytest.raises(ValueError, match=r"another network, it differs in cnn\.cnn\.0\.bias"):
        load_network(path)
