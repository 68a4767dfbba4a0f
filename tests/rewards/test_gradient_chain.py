"""Gradients of rewards through the vocoder: log-mel, Vocos, 16 kHz, filter bank, network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.rewards.gradients import relative_error
from tests.rewards.wespeaker import make_directory
from tests.tiny import PUBLISHED_MEL
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ProviderConfig, RLTrainConfig
from f5_tts.model.vocoders.vocos import Vocos
from f5_tts.rewards.asr.funasr_wer import FunasrWer
from f5_tts.rewards.guards import Clipping
from f5_tts.rewards.speaker.voice_sim import VoiceSim
from f5_tts.rewards.speaker.wespeaker_sim import WespeakerSim
from f5_tts.rl.scoring import RewardScorer
from f5_tts.types import RewardProvider, Rollout, SpeechBatch

pytestmark = pytest.mark.slow

LENS, PROMPTS = (60, 52), (8, 6)  # frames of 256 samples at 24 kHz
BINS = PUBLISHED_MEL.n_mel_channels

make_small = partial(make_directory, m_channels=4, embed_dim=16)


@pytest.fixture
def rollout() -> Rollout:
    """Build a finished rollout of two noisy samples with texts and reference recordings."""
    generator = torch.Generator().manual_seed(0)
    lens, prompts = torch.tensor(LENS), torch.tensor(PROMPTS)
    mel = torch.randn(2, max(LENS), BINS, generator=generator) - 2
    frames = torch.arange(max(LENS))
    batch = SpeechBatch(
        mel=mel,
        lens=lens,
        prompt_lens=prompts,
        text=torch.zeros(2, 4, dtype=torch.long),
        target_texts=["abc", "hg"],
        group_ids=torch.arange(2),
        audio=[0.1 * torch.randn(n * PUBLISHED_MEL.hop_length, generator=generator) for n in LENS],
    )
    none = mel.new_zeros(0, *mel.shape)
    return Rollout(
        batch=batch,
        cond=torch.zeros_like(mel),
        target_mask=(frames >= prompts[:, None]) & (frames < lens[:, None]),
        mel=mel,
        times=torch.zeros(0),
        next_times=torch.zeros(0),
        states=none,
        actions=none,
        means=none,
        stds=none,
    )


@pytest.fixture
def vocos() -> Vocos:
    """Build a small vocoder with random weights, for the published mel settings."""
    torch.manual_seed(0)
    return Vocos(PUBLISHED_MEL, dim=16, intermediate_dim=24, num_layers=2).requires_grad_(False)


def scorer(vocos: Vocos, **rewards: RewardProvider) -> RewardScorer:
    """Build a scorer with these rewards, of weights 1, 2, ..., whose prompts are cut from the clips."""
    overrides = ["rl.algorithm=draft", "rl.prompt_frac_range=[0.1,0.1]", "rl.mini_repeat_count=1"]
    rl = compose_config("F5TTS_RL", overrides, RLTrainConfig).rl
    rl.rewards.providers = [ProviderConfig(name=name, weight=float(i)) for i, name in enumerate(rewards, start=1)]
    return RewardScorer(vocos, rewards, rl, PUBLISHED_MEL)


@pytest.fixture
def chain_error(
    vocos: Vocos, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> Callable[[RewardProvider, torch.nn.Module], float]:
    """Return a function that compares a reward's gradient in the log-mel, in double precision, with differences.

    The vocoder and funasr's layer norms compute in single precision even then, unless `float` keeps the precision.
    """

    def compare(reward: RewardProvider, network: torch.nn.Module) -> float:
        chain = scorer(vocos, reward=reward)
        teacher = chain.teachers["reward"]
        teacher.loss(chain.differentiable_inputs(rollout.mel, rollout))  # embeds references in single precision
        vocos.double()
        network.double()
        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "float", lambda tensor: tensor)
            return relative_error(
                lambda mel: teacher.loss(chain.differentiable_inputs(mel, rollout)).sum(), rollout.mel, num=4, step=1e-7
            )

    return compare


def test_wespeaker_sim_through_vocos_agrees_with_finite_differences(tmp_path: Path, chain_error):
    reward = WespeakerSim(str(make_small(tmp_path)))
    assert chain_error(reward, reward.network) < 1e-3


@pytest.mark.slow
def test_funasr_wer_through_vocos_agrees_with_finite_differences(hearing_directory: Path, chain_error):
    reward = FunasrWer(str(hearing_directory))
    assert chain_error(reward, reward.recognizer.model) < 1e-3


def test_the_gradient_of_an_update_is_the_weighted_sum_of_all_rewards(tmp_path: Path, vocos: Vocos, rollout: Rollout):
    rewards = {"speaker": WespeakerSim(str(make_small(tmp_path))), "voice": VoiceSim(), "level": Clipping()}
    chain = scorer(vocos, **rewards)
    batch, gradient = chain.differentiate(rollout)
    mel = rollout.mel.clone().requires_grad_()
    inputs = chain.differentiable_inputs(mel, rollout)
    losses = [weight * reward.loss(inputs) for weight, reward in enumerate(rewards.values(), start=1)]
    (expected,) = torch.autograd.grad(torch.stack(losses).sum(), mel)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(batch.total, -torch.stack(losses).detach().sum(dim=0))
    outside = ~rollout.target_mask
    assert gradient[outside].eq(0).all() and gradient[rollout.target_mask].abs().sum(dim=1).gt(0).all()
