from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from f5_tts.data.audio import load_audio
from f5_tts.rewards.speaker.ecapa import EcapaTdnn
from f5_tts.rewards.speaker.ecapa_sim import RANGE, SHIPPED, EcapaSim, load_encoder, speaker_features
from f5_tts.types import RewardInput

pytestmark = pytest.mark.slow

RATE = 16_000
ROOT = Path(__file__).parents[3]
WAVS = ROOT / "data" / "mini_custom" / "wavs"
VOICES = ("dev_00", "dev_01", "test_00", "test_01", "test_02", "test_03")  # no training used them


@pytest.fixture(scope="module")
def judge() -> EcapaSim:
    return EcapaSim()


def prompts(voice: str) -> list[torch.Tensor]:
    return [load_audio(path, RATE) for path in sorted(WAVS.glob(f"{voice}_*_prompt_*.flac"))]


def pair(clip: torch.Tensor, reference: torch.Tensor | None) -> RewardInput:
    return RewardInput(audio=clip, sample_rate=RATE, text="", reference_audio=reference)


def test_recordings_of_unseen_voices_are_told_apart(judge):
    """Compare 30 prompts of six voices: all 60 pairs of one voice, and all 375 pairs of two."""
    clips = [prompts(voice) for voice in VOICES]
    labels = torch.arange(len(VOICES)).repeat_interleave(5)
    vectors = judge.embed([clip for voice in clips for clip in voice], RATE)
    cosine, first, second = vectors @ vectors.T, *torch.triu_indices(30, 30, offset=1)
    is_same, scores = labels[first] == labels[second], cosine[first, second]
    same, other = scores[is_same], scores[~is_same]
    assert (len(same), len(other)) == (60, 375)
    assert (same[:, None] > other).float().mean() > 0.99  # area under the curve
    assert same.mean() > other.mean() + 0.5


def test_a_clip_is_its_own_voice_however_loud(judge, spoken):
    clip = spoken("low_314")
    scores = judge.score([pair(clip, clip), pair(0.1 * clip, clip)])["sim"]
    torch.testing.assert_close(scores, torch.ones(2), atol=1e-4, rtol=0)


def test_a_clip_without_sound_scores_worst_and_one_without_a_reference_does_not_count(judge, spoken):
    clip = spoken("low_314")
    with pytest.warns(UserWarning, match="worst score"):
        scores = judge.score([pair(torch.zeros(8000), clip), pair(clip, None)])
    assert scores["sim"][0] == -1 and scores["sim"][1].isnan()
    assert scores["unusable"].tolist() == [1.0, 0.0]


def test_features_have_a_mean_of_0_and_a_limited_range(spoken):
    features = speaker_features(spoken("low_314"))
    assert features.shape[1] == 64 and features.mean().abs() < 1e-4
    assert features.max() - features.min() <= RANGE + 1e-4


def test_the_shortest_usable_clip_is_repeated(judge):
    clip = torch.randn(1600, generator=torch.Generator().manual_seed(0))
    assert judge.embed([0.1 * clip], RATE).isfinite().all()


def test_the_shipped_file_is_small_and_of_half_precision():
    weights = load_file(SHIPPED)
    assert SHIPPED.stat().st_size < 1_000_000
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float16}
    assert sum(part.numel() for part in EcapaTdnn().parameters()) == EcapaSim.num_parameters


def test_a_file_that_is_missing_damaged_of_another_network_or_not_finite_is_refused(tmp_path):
    path, weights = tmp_path / "model.safetensors", load_file(SHIPPED)
    with pytest.raises(FileNotFoundError, match=r"no speaker encoder at .*config\.path.*train_speaker_judge"):
        load_encoder(path)
    path.write_bytes(SHIPPED.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        load_encoder(path)
    save_file({name: value for name, value in weights.items() if name != "project.1.bias"}, path)
    with pytest.raises(ValueError, match=r"another network, it differs in project\.1\.bias"):
        load_encoder(path)
    save_file(weights | {"project.1.bias": torch.full((64,), torch.nan)}, path)
    with pytest.raises(ValueError, match=r"not finite, in project\.1\.bias"):
        load_encoder(path)


@pytest.mark.slow
def test_a_sample_of_the_base_model_is_nearer_to_its_prompt_than_one_spoken_after_another_voice(judge, monkeypatch):
    """Speak 16 dev items with the prompts of their own voice, and with those of the other voice."""
    from dataclasses import replace

    from f5_tts.config.load import compose_config
    from f5_tts.config.schema import TrainConfig
    from f5_tts.data.tokenizer import build_vocabulary
    from f5_tts.eval.evaluator import build_eval_synthesizer, load_eval_model, reward_inputs
    from f5_tts.eval.test_set import read_items
    from f5_tts.model.checkpoint import read_checkpoint

    monkeypatch.chdir(ROOT)
    cfg = compose_config("F5TTS_Mini", ["datasets.name=mini"], TrainConfig)
    vocabulary = build_vocabulary(cfg)
    base = read_checkpoint(Path("pretrained/F5TTS_Mini/model_800.safetensors")).with_weights()
    model, synthesizer = load_eval_model(cfg, base, vocabulary), build_eval_synthesizer(cfg, vocabulary)
    dev = [item for item in read_items(Path("data/mini_custom/dev.jsonl")) if not item.seen]
    one, two = ([item for item in dev if item.speaker == voice][:8] for voice in VOICES[:2])
    items = [*one, *two]
    swapped = [
        replace(item, prompt_audio=other.prompt_audio, prompt_text=other.prompt_text)
        for item, other in zip(items, [*two, *one], strict=True)
    ]
    own, foreign = (synthesizer.synthesize(model, spoken, 0.0, quiet=True) for spoken in (items, swapped))
    own_scores, foreign_scores = (
        judge.score(reward_inputs(items, clips, synthesizer))["sim"] for clips in (own, foreign)
    )
    assert own_scores.mean() > foreign_scores.mean() + 0.15


def test_a_file_of_another_kind_is_named_with_its_key_and_what_to_run(tmp_path: Path):
    path = tmp_path / "readme.md"
    path.write_text("# not weights")
    with pytest.raises(ValueError, match=r"^ecapa_sim: config\.path: .*readme\.md cannot be read.*train_speaker_judge"):
        load_encoder(path)
