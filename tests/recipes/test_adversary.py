from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from recipes.digits import train_reward
from recipes.digits.adversary import change_worst, uniform_like

from f5_tts.data.audio import load_audio
from f5_tts.model.mel import LogMel
from f5_tts.rewards.asr.digits_network import MEL_SPEC, read_network

ROOT = Path(__file__).parents[2]


def test_a_linear_loss_moves_each_entry_towards_its_slope_up_to_the_bound():
    mels, bounds = [torch.zeros(2, 3), torch.ones(1, 3)], [0.2, 0.0]
    slopes = [torch.tensor([[1.0, -2.0, 3.0], [-1.0, 1.0, -1.0]]), torch.ones(1, 3)]
    start = 0.2 * uniform_like(mels[0], np.random.default_rng(7))

    def loss(moved):
        return torch.stack([(mel * slope).sum() for mel, slope in zip(moved, slopes, strict=True)]).sum()

    changed, unchanged = change_worst(loss, mels, bounds, np.random.default_rng(7))
    step = 0.7 * 0.2 * slopes[0].sign()
    torch.testing.assert_close(changed, ((start + step).clamp(-0.2, 0.2) + step).clamp(-0.2, 0.2))
    assert torch.equal(unchanged, mels[1])


def test_the_worst_changes_of_real_clips_stay_within_the_bound_and_mislead_more_than_random_ones():
    row = Dataset.load_from_disk(str(ROOT / "data/mini_custom/raw"))[0]
    mel = LogMel(MEL_SPEC)(load_audio(ROOT / row["audio_path"], 16_000)[None])[0]
    network, words, rng = read_network(ROOT / "pretrained/digits_ctc/a.safetensors"), row["text"].split(), [1, 2]

    def loss(moved):
        return train_reward.batch_loss(network, [(changed, words) for changed in moved])

    (worst,) = change_worst(loss, [mel], [0.3], np.random.default_rng(rng))
    random = mel + 0.3 * uniform_like(mel, np.random.default_rng(rng)).sign()
    assert (worst - mel).abs().max() <= 0.3 + 1e-6
    assert loss([worst]) > loss([random]) and loss([worst]) > loss([mel]) + 0.05


@pytest.mark.parametrize("plain, robust", ["ac", "bd"])
def test_the_shipped_recognizers_for_gradients_are_misled_less_by_the_worst_changes(plain, robust):
    rows, log_mel = Dataset.load_from_disk(str(ROOT / "data/mini_custom/raw")).to_list()[:8], LogMel(MEL_SPEC)
    mels = [log_mel(load_audio(ROOT / row["audio_path"], 16_000)[None])[0] for row in rows]
    examples = [(mel, row["text"].split()) for mel, row in zip(mels, rows, strict=True)]
    rises = {}
    for name in (plain, robust):
        network = read_network(ROOT / f"pretrained/digits_ctc/{name}.safetensors")
        worst = train_reward.worst_case(network, examples, 0.8, np.random.default_rng(0))
        with torch.no_grad():
            losses = [train_reward.batch_loss(network, clips) for clips in (examples, worst)]
        rises[name] = (losses[1] - losses[0]).item()
    assert rises[robust] < 0.5 * rises[plain]


def test_each_example_of_a_batch_is_changed_by_less_than_the_limit_and_keeps_its_words():
    torch.manual_seed(0)
    network = read_network(ROOT / "pretrained/digits_ctc/a.safetensors")
    examples = [(torch.randn(30, 100), ["one", "two"]), (torch.randn(20, 100), ["three"])]
    changed = train_reward.worst_case(network, examples, 0.4, np.random.default_rng(0))
    assert [words for _, words in changed] == [words for _, words in examples]
    sizes = [(new - old).abs().max().item() for (new, _), (old, _) in zip(changed, examples, strict=True)]
    assert all(0 < size < 0.4 for size in sizes) and sizes[0] != sizes[1]
    assert train_reward.worst_case(network, examples, 0.0, np.random.default_rng(0)) == examples
