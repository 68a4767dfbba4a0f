from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny import tiny_arch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from f5_tts.estimate.live_bytes import PeakMemoryCounter, forward_bytes
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.backbones.unett import UNetT
from f5_tts.model.cfm import CFM

pytestmark = pytest.mark.slow

FLOAT = 4


def model_of(**changes: Any) -> CFM:
    torch.manual_seed(0)
    return CFM(DiT(tiny_arch(**changes), mel_dim=6, num_tokens=9, gaussian=True)).eval()


def fill(model: CFM) -> CFM:
    """Randomize all weights: those of a new model give no gradients to the layers before the last one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def point(num: int = 2, frames: int = 40) -> list[Tensor]:
    text = torch.zeros(num, frames, dtype=torch.long)
    return [torch.ones(num, frames, 6), torch.ones(num, frames, 6), text, torch.zeros(num)]


def test_a_tensor_counts_while_it_lives_and_views_and_results_in_place_count_once():
    before = torch.zeros(1000)
    with PeakMemoryCounter() as live:
        first = torch.zeros(10)
        before.add_(1.0)
        view = first.view(2, 5).t()
        assert live.current == 10 * FLOAT
        first.mul_(2.0)
        second = first + 1
        assert live.current == 20 * FLOAT
        del first
        assert live.current == 20 * FLOAT  # the view keeps the storage alive
        del view
        assert live.current == 10 * FLOAT
    del second
    assert (live.current, live.peak) == (0, 20 * FLOAT)


def test_after_a_forward_pass_lives_what_autograd_saved_and_what_it_returned():
    model, inputs = model_of(), point()
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        velocity = model(*inputs)
    returned = {part.untyped_storage()._cdata: part for part in velocity}
    own = {part.untyped_storage()._cdata for part in [*inputs, *model.parameters(), *model.buffers()]}
    kept = {place: part.untyped_storage().nbytes() for place, part in (saved | returned).items() if place not in own}
    with PeakMemoryCounter() as live:
        velocity = model(*inputs)
    assert live.current == sum(kept.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("backbone", [DiT, UNetT])
def test_tensors_without_memory_are_counted_as_real_ones(backbone: type, checkpointed: bool, bf16: bool):
    arch = tiny_arch(checkpoint_activations=checkpointed)

    def count() -> int:
        model = CFM(backbone(arch, mel_dim=6, num_tokens=9, gaussian=True)).eval()
        return forward_bytes(model, 2, 40, cfg_strength=1.0, bf16=bf16)

    with FakeTensorMode():
        shapes = count()
    assert shapes == count() > 0


def test_what_a_pass_holds_is_linear_in_clips_and_in_frames_and_guidance_doubles_the_clips():
    """Compare peaks of different sizes.

    Attention scores are never stored, and the gradients of weights are the constant part.
    """
    model = model_of()
    two, four, eight = (forward_bytes(model, num, 100) for num in (2, 4, 8))
    assert eight - four == 2 * (four - two)
    assert forward_bytes(model, 2, 400) == pytest.approx(eight, rel=0.005)
    assert forward_bytes(model, 4, 100, cfg_strength=1.0) == pytest.approx(eight, rel=0.02)


def test_without_gradients_depth_costs_nothing():
    shallow, deep = (forward_bytes(model_of(depth=depth), 1, 100, with_backward=False) for depth in (2, 8))
    assert deep == shallow


def test_with_checkpointing_a_block_more_costs_its_input():
    shallow, deep = (forward_bytes(model_of(depth=depth, checkpoint_activations=True), 4, 500) for depth in (4, 6))
    assert (deep - shallow) / 2 == pytest.approx(4 * 500 * 32 * FLOAT, rel=0.05)


def test_checkpointing_gives_the_same_gradients_for_less_memory():
    plain, frugal = (fill(model_of(depth=8, checkpoint_activations=value)) for value in (False, True))
    for model in (plain, frugal):
        model(*point()).mean.square().sum().backward()
    for (name, ours), theirs in zip(frugal.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is None:
            assert ours.grad is None, name
        else:
            assert ours.grad is not None, name
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)
    assert forward_bytes(frugal, 2, 200) < 0.5 * forward_bytes(plain, 2, 200)


def test_counting_leaves_no_hooks_and_no_gradients_where_none_are_trained():
    model = model_of()
    model.freeze_all_but_head()
    forward_bytes(model, 1, 10, bf16=True)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert [name for name, value in model.named_parameters() if value.grad is not None] == [
        "transformer.proj_out_ln_sig.weight",
        "transformer.proj_out_ln_sig.bias",
    ]
