from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from tests.tiny import tiny_arch
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ProviderConfig, RLConfig, RLTrainConfig
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.types import Rollout, SpeechBatch

MEL_BINS = 6
# The expected values of the tests depend on these settings, not on the shipped ones.
SETTINGS = ("algorithm=gaussian_grpo", "steps=8", "cfg_strength=0.0", "kl_weight=0.01", "temperature=2.0", "sde.a=0.5")
SETTINGS += (
    "anchor_weight=0.0",
    "nft.old_decay=0.0",
    "shared_noise=true",
    "credit=sample",
    "advantage_clip=5.0",
    "nft.num_times=2",
)
SETTINGS += ("mini_repeat_count=12", "window.size=3", "window.t_range=[0.0,0.5]", "window.schedule=fixed")


@pytest.fixture
def rl() -> Callable[..., RLConfig]:
    """Return a maker of the rl section with fixed settings and changes, as in rl("steps=4")."""

    def make(*changes: str) -> RLConfig:
        # prompts are cut, or come from pairs
        pairs = not any(change.startswith("prompt_frac_range=[") for change in changes)
        overrides = [f"datasets.pair_speakers={pairs}", *(f"rl.{change}" for change in (*SETTINGS, *changes))]
        return compose_config("F5TTS_Mini_RL", overrides, RLTrainConfig).rl

    return make


@pytest.fixture
def rewarded(rl: Callable[..., RLConfig]) -> Callable[..., RLConfig]:
    """Return a maker of an rl section with the named rewards: weights 1, 2, ..., floors 0.01, 0.02, ..."""

    def make(names: Iterable[str], *changes: str) -> RLConfig:
        entries = [
            ProviderConfig(name=name, weight=float(i), floor=i / 100, config={})
            for i, name in enumerate(names, start=1)
        ]
        settings = rl(*changes)
        settings.rewards.providers = entries
        return settings

    return make


@pytest.fixture
def policy() -> CFM:
    """Build a small Gaussian DiT with random weights in eval mode (no dropout), as stage 2 runs it."""
    torch.manual_seed(0)
    model = CFM(DiT(tiny_arch(dropout=0.1), MEL_BINS, num_tokens=9, gaussian=True))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def batch() -> SpeechBatch:
    """Build a batch of two prompts, of three and four frames, in clips of different lengths."""
    torch.manual_seed(1)
    return SpeechBatch(
        mel=torch.randn(2, 12, MEL_BINS),
        lens=torch.tensor([12, 9]),
        prompt_lens=torch.tensor([3, 4]),
        text=torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1]]),
        target_texts=["three four", "six"],
        group_ids=torch.tensor([7, 2]),
        audio=[torch.randn(120), torch.randn(90)],
    )


@pytest.fixture
def rollout_of() -> Callable[..., Rollout]:
    """Return a maker of a rollout of one trained step; the clips have equal length, and all frames are generated."""

    def make(
        states: Tensor, actions: Tensor, means: Tensor, std: float, *, time: float = 0.2, next_time: float = 0.5
    ) -> Rollout:
        num, length, _ = states.shape
        batch = SpeechBatch(
            mel=torch.zeros_like(states),
            lens=torch.full((num,), length),
            prompt_lens=torch.zeros(num, dtype=torch.long),
            text=torch.zeros(num, 1, dtype=torch.long),
            target_texts=["one"] * num,
            group_ids=torch.zeros(num, dtype=torch.long),
            audio=[torch.zeros(1)] * num,
        )
        return Rollout(
            batch=batch,
            cond=torch.zeros_like(states),
            target_mask=torch.ones(num, length, dtype=torch.bool),
            mel=actions,
            times=torch.tensor([time]),
            next_times=torch.tensor([next_time]),
            states=states[None],
            actions=actions[None],
            means=means[None],
            stds=torch.as_tensor(std).view(1, 1, 1, 1),
        )

    return make
