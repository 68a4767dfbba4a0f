from __future__ import annotations

import pytest
import torch
from torch import Tensor

from f5_tts.model.cfm import CFM, velocity_field
from f5_tts.model.heads import Velocity
from f5_tts.types import padding_mask


@pytest.fixture
def model(golden_model) -> CFM:
    """Build a small model with a Gaussian head and random weights."""
    return golden_model("dit")


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return noisy mel, prompt and text of two items of 15 and 9 frames, and their mask."""
    torch.manual_seed(4)
    text = torch.tensor([[3, 14, 15, 9, 26], [5, 3, 5, -1, -1]])
    frames = torch.arange(15) < torch.tensor([15, 9])[:, None]
    return torch.randn(2, 15, 20), torch.randn(2, 15, 20), text, frames


def velocity(model: CFM, inputs: tuple[Tensor, ...], time: Tensor, **settings: float | Tensor) -> Velocity:
    x, cond, text, mask = inputs
    with torch.no_grad():
        return model(x, cond, text, time, mask, **settings)


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_guidance_moves_the_mean_away_from_the_unconditional_one(model, inputs, strength):
    time, yes = torch.tensor([0.2, 0.7]), torch.tensor([True, True])
    given = velocity(model, inputs, time).mean
    blank = velocity(model, inputs, time, drop_audio=yes, drop_text=yes).mean
    guided = velocity(model, inputs, time, cfg_strength=strength).mean
    assert (given - blank).abs().amax() > 0.1
    torch.testing.assert_close(guided, given + strength * (given - blank), atol=2e-6, rtol=0)


def test_guidance_leaves_the_deviation_at_the_conditional_one(model, inputs):
    time = torch.tensor([0.2, 0.7])
    guided, given = velocity(model, inputs, time, cfg_strength=3.0), velocity(model, inputs, time)
    assert guided.ln_sigma is not None and given.ln_sigma is not None
    torch.testing.assert_close(guided.ln_sigma, given.ln_sigma, atol=2e-6, rtol=0)


def test_guidance_keeps_to_the_conditions_an_item_was_left(model, inputs):
    time, first, yes = torch.tensor([0.2, 0.7]), torch.tensor([True, False]), torch.tensor([True, True])
    given = velocity(model, inputs, time, drop_audio=first).mean
    blank = velocity(model, inputs, time, drop_audio=yes, drop_text=yes).mean
    guided = velocity(model, inputs, time, drop_audio=first, cfg_strength=2.0).mean
    torch.testing.assert_close(guided, 3 * given - 2 * blank, atol=2e-6, rtol=0)


def test_one_time_for_all_is_the_same_as_that_time_for_each(model, inputs):
    one, each = (velocity(model, inputs, time, cfg_strength=1.0) for time in (torch.tensor(0.3), torch.full((2,), 0.3)))
    assert torch.equal(one.mean, each.mean)


def test_each_item_sees_its_own_time(model, inputs):
    both = velocity(model, inputs, torch.tensor([0.1, 0.8])).mean
    early, late = (velocity(model, inputs, torch.tensor(time)).mean for time in (0.1, 0.8))
    torch.testing.assert_close(both, torch.stack([early[0], late[1]]), atol=2e-6, rtol=0)
    assert (early[1] - late[1]).abs().amax() > 0.01


@pytest.mark.parametrize("dropped, blanked", [("drop_audio", 1), ("drop_text", 2)])
def test_a_dropped_condition_is_not_read_for_that_item_only(model, inputs, dropped, blanked):
    changed = list(inputs)
    changed[blanked] = torch.where(inputs[blanked] < 0, inputs[blanked], inputs[blanked] + 1) % 30
    settings = {"time": torch.tensor(0.5), dropped: torch.tensor([True, False])}
    before, after = velocity(model, inputs, **settings).mean, velocity(model, tuple(changed), **settings).mean
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_a_deterministic_model_gives_no_deviation_with_or_without_guidance(golden_model, inputs):
    model = golden_model("dit_v1")
    assert not model.is_gaussian
    assert velocity(model, inputs, torch.tensor(0.5)).ln_sigma is None
    assert velocity(model, inputs, torch.tensor(0.5), cfg_strength=2.0).ln_sigma is None


def test_gradients_reach_every_weight_through_forward(model, inputs):
    x, cond, text, mask = inputs
    out = model(x, cond, text, torch.tensor([0.2, 0.7]), mask, cfg_strength=1.0)
    (out.mean.square().mean() + out.ln_sigma.square().mean()).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_a_batch_without_padding_needs_no_mask():
    assert padding_mask(torch.tensor([4, 4]), 4) is None
    mask = padding_mask(torch.tensor([1, 3]), 4)
    assert mask is not None
    assert mask.tolist() == [[True, False, False, False], [True, True, True, False]]


@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_along_a_path_the_text_is_embedded_once_and_every_velocity_stays_the_same(model, inputs, strength):
    x, cond, text, mask = inputs
    embedded = []
    model.transformer.text_embed.register_forward_hook(lambda *call: embedded.append(call))
    field = velocity_field(model, cond, text, mask, strength)
    with torch.no_grad():
        along = [field(x * scale, torch.tensor(scale)).mean for scale in (0.2, 0.5, 0.8)]
    assert len(embedded) == 1
    for scale, result in zip((0.2, 0.5, 0.8), along, strict=True):
        expected = velocity(model, (x * scale, cond, text, mask), torch.tensor(scale), cfg_strength=strength).mean
        assert torch.equal(result, expected)


# --- the unconditional half without a graph ---


def guided_gradients(
    model: CFM, inputs: tuple[Tensor, ...], together: bool, cast: bool = False
) -> tuple[Velocity, dict[str, Tensor], int]:
    """Return the velocity at guidance 2, the gradients of its conditional half, and the bytes that its graph keeps.

    `together` computes both halves in one graph and gives the unconditional one a gradient of zero: (1 + w) μ_c - w μ_u
    with μ_u detached.
    """
    x, cond, text, mask = inputs
    kept: list[Tensor] = []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor)
    with keep, torch.autocast("cpu", torch.bfloat16, enabled=cast):
        if together:
            every = [torch.cat([part, part]) for part in (x, cond, text, torch.tensor([0.2, 0.7]), mask)]
            dropped = torch.tensor([False, False, True, True])
            out = model(*every, drop_audio=dropped, drop_text=dropped)
            out = Velocity(3 * out.mean[:2] - 2 * out.mean[2:].detach(), out.ln_sigma[:2])
        else:
            time = torch.tensor([0.2, 0.7])
            out = model(x, cond, text, time, mask, cfg_strength=2.0, grad_uncond=False)
    torch.cat([out.mean.float(), torch.as_tensor(out.ln_sigma).float()]).square().mean().backward()
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    weights = sum(p.untyped_storage().nbytes() for p in model.parameters())
    return out, gradients, sum(storages.values()) - weights


def test_an_unconditional_half_without_gradient_changes_no_number_and_keeps_no_activations(model, inputs):
    expected, found = guided_gradients(model, inputs, together=True), guided_gradients(model, inputs, together=False)
    torch.testing.assert_close(found[0].mean, expected[0].mean, atol=1e-6, rtol=1e-6)
    assert found[1].keys() == expected[1].keys() == dict(model.named_parameters()).keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5)
    assert found[2] < 0.6 * expected[2]


def test_the_half_without_a_graph_takes_no_gradient_from_the_other_in_mixed_precision(model, inputs):
    expected, found = (guided_gradients(model, inputs, together, cast=True)[1] for together in (True, False))
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    whole = [torch.cat([gradient.flatten() for gradient in part.values()]) for part in (expected, found)]
    assert (whole[0] - whole[1]).norm() < 0.02 * whole[0].norm()
