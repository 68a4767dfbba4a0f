from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from tests.tiny import tiny_arch
from torch import Tensor

from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.model.snapshot import Snapshot

HEAD = {"transformer.proj_out_ln_sig.weight", "transformer.proj_out_ln_sig.bias"}


@pytest.fixture
def model() -> CFM:
    torch.manual_seed(0)
    model = CFM(DiT(tiny_arch(), mel_dim=6, num_tokens=9, gaussian=True)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def point() -> tuple[Tensor, ...]:
    """Return a point on the flow."""
    torch.manual_seed(1)
    return torch.randn(2, 5, 6), torch.randn(2, 5, 6), torch.tensor([[1, 2], [3, -1]]), torch.tensor([0.2, 0.7])


def train(model: CFM, step: float = 0.5) -> None:
    """Change all trainable weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(step)


@torch.no_grad()
@pytest.mark.parametrize("cfg_strength", [0.0, 2.0])
def test_it_answers_as_the_model_did_when_it_was_taken(model: CFM, point: tuple[Tensor, ...], cfg_strength: float):
    before = model(*point, cfg_strength=cfg_strength)
    snapshot = Snapshot(model)
    train(model)
    now, then = model(*point, cfg_strength=cfg_strength), snapshot(*point, cfg_strength=cfg_strength)
    for name in ("mean", "ln_sigma"):
        assert torch.equal(getattr(then, name), getattr(before, name))
        assert not torch.allclose(getattr(now, name), getattr(before, name))


@torch.no_grad()
def test_asking_it_leaves_the_model_as_it_is(model: CFM, point: tuple[Tensor, ...]):
    snapshot = Snapshot(model)
    train(model)
    weights = deepcopy(model.state_dict())
    snapshot(*point)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_what_is_not_trained_is_shared_and_not_copied(model: CFM, point: tuple[Tensor, ...]):
    model.freeze_all_but_head()
    snapshot = Snapshot(model)
    assert snapshot.tensors.keys() == HEAD
    model.transformer.proj_out.bias.add_(1.0)
    train(model)
    then, now = snapshot(*point), model(*point)
    assert torch.equal(then.mean, now.mean)
    assert then.ln_sigma is not None and now.ln_sigma is not None
    assert not torch.allclose(then.ln_sigma, now.ln_sigma)


def test_its_copy_has_memory_of_its_own_and_no_gradient(model: CFM):
    snapshot = Snapshot(model, "cpu")  # the model's device
    for name, parameter in model.named_parameters():
        assert snapshot.tensors[name].data_ptr() != parameter.data_ptr()
        assert not snapshot.tensors[name].requires_grad


def test_its_copy_waits_where_it_is_asked_to(model: CFM):
    assert {value.device.type for value in Snapshot(model, "meta").tensors.values()} == {"meta"}
    assert {value.device.type for value in Snapshot(model).tensors.values()} == {"cpu"}


@torch.no_grad()
def test_each_use_brings_it_to_where_the_model_is(model: CFM, point: tuple[Tensor, ...]):
    """Use the meta device in place of a GPU."""
    snapshot = Snapshot(model, "cpu")
    model.to("meta")
    assert snapshot(*(part.to("meta") for part in point)).mean.device.type == "meta"
    assert {value.device.type for value in snapshot.tensors.values()} == {"cpu"}


def test_it_follows_by_the_decay_that_it_is_told(model: CFM):
    """Compute the EMA by hand.

    The snapshot starts at θ and the model is at θ + 1. After decays 0.75 and 0.5 it is at θ + 0.5 (0.25) + 0.5 = θ +
    0.625.
    """
    start = deepcopy(dict(model.named_parameters()))
    snapshot = Snapshot(model)
    train(model, 1.0)
    snapshot.ema_update(0.75)
    snapshot.ema_update(0.5)
    for name, value in snapshot.tensors.items():
        torch.testing.assert_close(value, start[name].detach() + 0.625, rtol=0, atol=1e-6)


def test_it_takes_the_values_of_another_into_its_own_memory(model: CFM):
    other = {name: torch.full_like(value, 2.0) for name, value in Snapshot(model).tensors.items()}
    snapshot = Snapshot(model)
    places = {name: value.data_ptr() for name, value in snapshot.tensors.items()}
    snapshot.load(other)
    for name, value in snapshot.tensors.items():
        assert value.data_ptr() == places[name] and bool((value == 2.0).all())


def test_one_of_other_tensors_is_refused_with_their_names(model: CFM):
    tensors = Snapshot(model).tensors
    model.freeze_all_but_head()
    with pytest.raises(ValueError, match=r"other tensors than this model trains, e\.g\. \['transformer\."):
        Snapshot(model).load(tensors)
