from __future__ import annotations

import pytest
import torch
from tests.rewards.gradients import relative_error
from torch import Tensor

from f5_tts.estimate.live_bytes import PeakMemoryCounter
from f5_tts.rewards.clip_losses import clip_losses


def energy(clip: Tensor, index: int) -> Tensor:
    """Compute a loss whose value and gradient depend on the clip's place."""
    return (index + 1) * clip.square().sum()


def test_values_and_gradients_are_those_of_each_clips_loss():
    clips = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)]
    losses = clip_losses(clips, energy)
    assert losses.tolist() == [5.0, 18.0]
    (losses * torch.tensor([1.0, 0.5])).sum().backward()
    assert [clip.grad.tolist() for clip in clips if clip.grad is not None] == [[2.0, 4.0], [6.0]]


def test_a_missing_clip_is_nan_and_leaves_the_others_alone():
    clip = torch.tensor([2.0], requires_grad=True)
    losses = clip_losses([None, clip, None], energy)
    torch.testing.assert_close(losses, torch.tensor([torch.nan, 8.0, torch.nan]), equal_nan=True)
    losses.nansum().backward()
    assert clip.grad is not None and clip.grad.item() == 8.0
    assert clip_losses([None], energy).isnan().all()


def test_without_gradients_the_loss_is_computed_alone():
    assert not clip_losses([torch.ones(2)], energy).requires_grad
    with torch.no_grad():
        assert clip_losses([torch.ones(2, requires_grad=True)], energy).tolist() == [2.0]


def test_the_chain_before_the_clips_gets_its_gradient():
    weight = torch.linspace(-1, 1, 6)
    assert relative_error(lambda x: clip_losses([x * weight.double(), x[:2]], energy).sum(), torch.ones(6)) < 1e-6


@pytest.mark.parametrize("num", [1, 8])
def test_memory_holds_the_activations_of_one_clip(num):
    """Expect about ten activations of 40 kB of one clip, and a clip and a gradient of 40 kB each for the others."""

    def deep(clip: Tensor, index: int) -> Tensor:
        for _ in range(10):
            clip = clip.sin()
        return clip.sum()

    clips = [torch.ones(10_000, requires_grad=True) for _ in range(num)]
    with PeakMemoryCounter() as counter:
        clip_losses(clips, deep).sum().backward()
    assert 10 * 40_000 < counter.peak < (14 + 4 * num) * 40_000
