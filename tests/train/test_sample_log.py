from __future__ import annotations

import json
from math import nan
from pathlib import Path

import pytest
import torch
from tests.tiny import MINI_MEL, tiny_arch

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.train.metrics_log import MetricsLog
from f5_tts.train.sample_log import (
    ContinuationSamples,
    MakeSamples,
    RolloutSamples,
    Samples,
    sample_table,
    write_samples,
)
from f5_tts.types import ExperienceBatch, RewardBatch, Rollout, SpeechBatch


def scored_batch() -> ExperienceBatch:
    """Build two samples of prompt 7, of two and three frames, padded to four."""
    nothing = torch.zeros(0, 2, 4, 1)
    given = SpeechBatch(
        mel=torch.zeros(2, 4, 1),
        lens=torch.tensor([2, 3]),
        prompt_lens=torch.tensor([0, 0]),
        text=torch.zeros(2, 1, dtype=torch.long),
        target_texts=["six", "six"],
        group_ids=torch.tensor([7, 7]),
        audio=[torch.zeros(4)] * 2,
    )
    rollout = Rollout(
        batch=given,
        cond=given.mel,
        target_mask=torch.tensor([[True, True, False, False], [True, True, True, False]]),
        mel=given.mel,
        times=torch.zeros(0),
        next_times=torch.zeros(0),
        states=nothing,
        actions=nothing,
        means=nothing,
        stds=nothing,
    )
    rewards = RewardBatch(
        total=torch.tensor([1.0, 0.5]),
        components={"ear.acc": torch.tensor([1.0, nan])},
        weights={"ear.acc": 1.0},
        diagnostics={"ear.wer": torch.tensor([0.0, 2.0])},
        texts={"ear.heard": ["six", "数 9"]},
    )
    advantages = torch.tensor([[1.0, 2.0, 9.0, 9.0], [-1.0, -1.0, -4.0, 9.0]])
    return ExperienceBatch(rollout=rollout, advantages=advantages, loss_weight=1.0, metrics={}, rewards=rewards)


def test_a_row_tells_what_was_to_be_said_what_was_heard_and_what_that_was_worth(tmp_path: Path):
    rows = sample_table(scored_batch())
    write_samples(tmp_path / "samples", Samples(clips={}, sample_rate=16_000, rows=rows), 4)
    lines = (tmp_path / "samples" / "update_4.jsonl").read_text("utf-8").splitlines()
    output = {"group": 7, "prompt": "", "text": "six"}
    assert [json.loads(line) for line in lines] == [
        {**output, "ear.heard": "six", "reward": 1.0, "ear.acc": 1.0, "ear.wer": 0.0, "advantage": 1.5},
        {**output, "ear.heard": "数 9", "reward": 0.5, "ear.acc": None, "ear.wer": 2.0, "advantage": -2.0},
    ]


def silent(mel: torch.Tensor, lens: torch.Tensor) -> list[torch.Tensor]:
    return [torch.zeros(int(num)) for num in lens]


@pytest.mark.parametrize(
    "listen",
    [
        ContinuationSamples(Vocabulary([" "]), silent, compose_config("F5TTS_Mini", [], TrainConfig).infer, MINI_MEL),
        RolloutSamples(silent, MINI_MEL),
    ],
    ids=["stage 1", "stage 2"],
)
def test_of_an_update_that_lost_all_its_rows_there_is_nothing_to_hear(tmp_path: Path, listen: MakeSamples):
    metrics_log = MetricsLog(tmp_path, first=0, total=1, title="test")
    metrics_log.log_samples(listen(CFM(DiT(tiny_arch(), mel_dim=6, num_tokens=9)), []), 1)
    metrics_log.close()
    assert not (tmp_path / "samples").exists()
