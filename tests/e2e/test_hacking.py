"""A run of draft that hacks its reward on purpose: no anchor, no similarity term, a large learning rate."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.runs import rows

from f5_tts.train import train_rl

BASE = Path(__file__).parents[2] / "pretrained/F5TTS_Mini/model_800.safetensors"
HACKING = [
    *["-cn", "F5TTS_Mini_Draft", f"ckpts.init_from={BASE}", "optim.max_updates=200", "optim.learning_rate=1e-3"],
    *[
        "rl.kl_weight=0",
        "rl.draft.augmentation=0",
        "datasets.batch_size_per_gpu=8",
        "eval.every_updates=20",
        "ckpts.save_per_updates=100",
    ],
    "rl.rewards.providers=[{name: digits_ctc, config: {ckpts: [pretrained/digits_ctc/a.safetensors]}}]",
]


@pytest.mark.soak
def test_a_run_that_hacks_its_reward_is_ended_by_the_judge_that_is_none(tmp_path: Path, capsys):
    """The recognizer in the loss is content while speech gets worse for pocketsphinx, or loses the voice."""
    assert train_rl.main([*HACKING, f"ckpts.save_dir={tmp_path}"])
    metrics = rows(tmp_path)
    assert metrics[-1]["update"] < 200 and metrics[-1]["health/alarm_reward_hacked"] == 1
    start, end = metrics[1:11], metrics[-10:]
    losses = [sum(row["reward/digits_ctc.loss"] for row in part) / 10 for part in (start, end)]
    assert losses[1] < 0.5 * losses[0]
    assert "because the alarm reward_hacked is active" in capsys.readouterr().out
