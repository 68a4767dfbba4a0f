from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from f5_tts.model.cfm import CFM
from f5_tts.model.flow import interpolate
from f5_tts.model.heads import Velocity
from f5_tts.model.losses import gaussian_nll, velocity_mse
from f5_tts.types import padding_mask

MODELS = ["dit_v1", "dit_v0", "unett_e2"]
STEPS = ["nll.keep", "nll.drop_audio", "nll.drop_both", "gaussian_model_mse.keep"]
SCALAR = torch.ones(1, 1, dtype=torch.bool)


class TrainingStep(NamedTuple):
    """A golden training step: the predicted velocity and the loss."""

    velocity: Velocity
    loss: Tensor


def train_on(model: CFM, golden: dict[str, Tensor], name: str, drop_draws: tuple[float, float]) -> TrainingStep:
    """Repeat a golden training step with its random numbers."""
    mel, noise, time, span = (golden[key] for key in ("in.mel", f"{name}.x0", f"{name}.time", f"{name}.span_mask"))
    both = torch.full((len(mel),), drop_draws[1] < 0.2)
    audio = both | (drop_draws[0] < 0.3)
    velocity = model(
        interpolate(noise, mel, time),
        mel.masked_fill(span[..., None], 0.0),
        golden["in.text"],
        time,
        padding_mask(golden["in.lens"], mel.shape[1]),
        drop_audio=audio,
        drop_text=both,
    )
    flow = mel - noise
    is_nll = name.startswith("nll.")
    loss = gaussian_nll(velocity, flow, time, span, 1.0) if is_nll else velocity_mse(velocity.mean, flow, span)
    return TrainingStep(velocity, loss)


@pytest.mark.parametrize("name", STEPS)
def test_losses_are_the_forks_within_1e_5_where_attention_sees_padding_as_its_did(name, golden_model, tensors, table):
    model, settings = golden_model("dit", attn_mask_enabled=False), table("g4_nll")[name]
    step = train_on(model, tensors("g4_nll"), name, settings["drop_draws"])
    assert step.loss.item() == pytest.approx(settings["loss"], rel=1e-5)
    torch.testing.assert_close(step.velocity.mean, tensors("g4_nll")[f"{name}.pred"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", STEPS)
def test_gradients_are_the_forks_within_1e_4_where_attention_sees_padding_as_its_did(
    name, golden_model, tensors, table
):
    model, settings = golden_model("dit", attn_mask_enabled=False), table("g4_nll")[name]
    train_on(model, tensors("g4_nll"), name, settings["drop_draws"]).loss.backward()
    norms = {key: None if p.grad is None else p.grad.norm().item() for key, p in model.named_parameters()}
    assert norms == {key: norm and pytest.approx(norm, rel=1e-4) for key, norm in settings["grad_norms"].items()}


@pytest.mark.parametrize(
    "file, weights, name",
    [("g4_nll", "dit", name) for name in STEPS]
    + [("g4_mse", model, f"{model}.{mode}") for model in MODELS for mode in ("keep", "drop_audio", "drop_both")],
)
def test_a_training_step_says_of_full_length_items_what_the_published_one_says_within_2e_5(
    file, weights, name, golden_model, tensors, table
):
    golden = tensors(file)
    full = golden["in.lens"] == golden["in.mel"].shape[1]
    assert full.tolist() == [True, False, False]
    step = train_on(golden_model(weights), golden, name, table(file)[name]["drop_draws"])
    torch.testing.assert_close(step.velocity.mean[full], golden[f"{name}.pred"][full], atol=2e-5, rtol=0)


def test_the_velocity_mse_is_the_mean_over_the_entries_of_the_span():
    predicted, target = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 3.0], [5.0, 7.0], [100.0, 100.0]]])
    span = torch.tensor([[True, True, False]])
    assert velocity_mse(predicted, target, span).item() == (1 + 9 + 25 + 49) / 4


def test_items_weigh_by_their_frames_in_the_span():
    predicted, target = torch.zeros(2, 3, 1), torch.tensor([[[4.0]] * 3, [[2.0]] * 3])
    span = torch.tensor([[True, False, False], [True, True, True]])
    assert velocity_mse(predicted, target, span).item() == (16 + 3 * 4) / 4


@pytest.mark.parametrize("t2_weight", [0.0, 1.0])
def test_one_entry_of_the_nll_is_the_formula(t2_weight):
    mean, target, ln_sigma, time = 0.5, 2.0, math.log(3.0), 0.8
    velocity = Velocity(torch.full((1, 1, 1), mean), torch.full((1, 1, 1), ln_sigma))
    nll = gaussian_nll(velocity, torch.full((1, 1, 1), target), torch.tensor([time]), SCALAR, t2_weight)
    assert nll.item() == pytest.approx(1.5**2 / (2 * 9) + (1 + t2_weight * 0.64) * math.log(3.0), rel=1e-5)


def test_each_item_of_the_nll_has_its_own_time_and_frames_outside_the_span_are_not_read():
    velocity = Velocity(torch.zeros(2, 2, 1), torch.ones(2, 2, 1))
    target = torch.tensor([[[0.0], [math.nan]], [[0.0], [0.0]]])
    span = torch.tensor([[True, False], [True, True]])
    nll = gaussian_nll(velocity, target, torch.tensor([0.0, 1.0]), span, t2_weight=1.0)
    assert nll.item() == pytest.approx((1 + 2 + 2) / 3)


@pytest.mark.parametrize("t2_weight, time", [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (1.0, 0.5)])
def test_the_best_variance_is_the_squared_error_over_one_plus_w_t_squared(t2_weight, time):
    error = 1.5
    best = error**2 / (1 + t2_weight * time**2)
    ln_sigma = torch.full((1, 1, 1), 0.5 * math.log(best), requires_grad=True)
    velocity = Velocity(torch.zeros(1, 1, 1), ln_sigma)
    gaussian_nll(velocity, torch.full((1, 1, 1), error), torch.tensor([time]), SCALAR, t2_weight).backward()
    assert ln_sigma.grad is not None
    assert ln_sigma.grad.item() == pytest.approx(0.0, abs=1e-5)


def test_a_tiny_deviation_cannot_make_the_nll_infinite():
    velocity = Velocity(torch.zeros(1, 1, 1), torch.full((1, 1, 1), -60.0))
    nll = gaussian_nll(velocity, torch.full((1, 1, 1), 1.0), torch.tensor([0.0]), SCALAR, 0.0)
    assert nll.item() == pytest.approx(1e6 - 60, rel=1e-5)


def test_the_nll_of_a_deterministic_model_is_refused():
    with pytest.raises(AssertionError, match="needs a model with a Gaussian head"):
        gaussian_nll(Velocity(torch.zeros(1, 1, 1), None), torch.zeros(1, 1, 1), torch.zeros(1), SCALAR, 0.0)
