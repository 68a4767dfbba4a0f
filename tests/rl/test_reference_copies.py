"""Copies of a reference that is stored on the CPU: one an update, gone before the first pass of the policy."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from f5_tts.config.schema import RLConfig
from f5_tts.model.cfm import CFM
from f5_tts.model.snapshot import Snapshot
from f5_tts.rl import grpo
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.rl.grpo import PolicyLoss
from f5_tts.types import ExperienceBatch, SpeechBatch

Fields = TypeVar("Fields")
ALGORITHMS = {
    "gaussian_grpo": ["anchor_weight=0.1", "updates_per_rollout=2"],
    "flow_grpo": ["anchor_weight=0.1", "anchor_every=2", "updates_per_rollout=2"],
    "nft": ["shared_noise=false", "updates_per_rollout=2"],
    "draft": ["shared_noise=false", "draft.last_steps=2", "anchor_every=2"],
    "f5r": ["steps=4"],
}  # with settings
PASSES = {"gaussian_grpo": 3 + 1, "flow_grpo": 3 + 1, "nft": 2, "draft": 1 + 1, "f5r": 1}  # of one of two micro-batches
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


class Copies(TorchDispatchMode):
    """Record of the copies of these tensors on the meta device, which stands for a GPU."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self.places, self.made = {value.data_ptr() for value in tensors}, list[weakref.ref[Tensor]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == "_to_copy" and args[0].device.type == "cpu":
            self.made += [weakref.ref(result)] if args[0].data_ptr() in self.places else []
        return result

    @property
    def num_alive(self) -> int:
        """Count the copies that are still there."""
        return sum(value() is not None for value in self.made)


@pytest.fixture
def settings(rl, algorithm: str) -> RLConfig:
    """Build settings of an algorithm with two micro-batches an update and, where it can, two updates a rollout."""
    given = ["repeat_count=2", "mini_repeat_count=2", "kl_weight=0.5", "cfg_strength=1.0"]
    return rl(f"algorithm={algorithm}", *given, *ALGORITHMS[algorithm])


def experience_of(policy: CFM, batch: SpeechBatch, rl: RLConfig, update: int) -> list[ExperienceBatch]:
    """Draw the samples of an update and give them advantages, or with draft gradients of rewards."""
    torch.manual_seed(1)
    return [
        ExperienceBatch(
            rollout=rollout,
            advantages=torch.randn(4),
            loss_weight=0.5,
            metrics={"draft/loss": 0.0},
            mel_gradient=torch.ones_like(rollout.mel) if rl.algorithm == "draft" else None,
            update=update,
        )
        for rollout in find_algorithm(rl.algorithm).draw(policy, batch, rl)
    ]


def on_meta(value: Fields) -> Fields:
    """Copy a dataclass, with its tensors and those of its parts on the meta device; they lose their gradients."""
    moved = copy.copy(value)
    for field in fields(value):  # pyright: ignore[reportArgumentType]
        part = getattr(value, field.name)
        if isinstance(part, Tensor):
            object.__setattr__(moved, field.name, part.detach().to("meta"))
        elif hasattr(part, "__dataclass_fields__"):
            object.__setattr__(moved, field.name, on_meta(part))
    return moved


@every_algorithm
def test_an_update_copies_the_reference_once_and_frees_it_before_the_policys_first_pass(
    policy, batch, settings, algorithm: str
):
    """Make two updates of the same samples; the second has no anchor where every second one has.

    Without its anchor draft has no use for a reference, and copies none.
    """
    reference = Snapshot(policy, "cpu")
    updates = [[on_meta(part) for part in experience_of(policy, batch, settings, update)] for update in range(2)]
    policy.to("meta")
    slices = []
    with Copies(list(reference.tensors.values())) as copies:
        for update, experience in enumerate(updates, start=1):
            for output in PolicyLoss(settings, reference)(policy, experience):
                num_copies = 1 if algorithm == "draft" else update
                assert len(copies.made) == num_copies * len(reference.tensors) and copies.num_alive == 0
                slices.append(output.loss.device.type)
    assert slices == ["meta"] * (2 * 2 * PASSES[algorithm] - (2 if settings.anchor_every == 2 else 0))


@every_algorithm
def test_an_update_is_the_same_wherever_the_reference_is_stored(policy, batch, settings):
    at_model, elsewhere = Snapshot(policy), Snapshot(policy, "cpu")
    results = []
    with torch.no_grad():
        policy.transformer.proj_out.bias.add_(0.1)
    for reference in (at_model, elsewhere):
        experience = experience_of(policy, batch, settings, 0)
        losses = []
        for output in PolicyLoss(settings, reference)(policy, experience):
            output.loss.backward()
            losses.append((output.loss.item(), {name: float(value) for name, value in output.metrics.items()}))
        gradients = [weight.grad.clone() for weight in policy.parameters() if weight.grad is not None]
        results.append((losses, gradients, torch.get_rng_state()))
        policy.zero_grad()
    (losses, gradients, drawn), (others, other_gradients, drawn_there) = results
    assert losses == others and torch.equal(drawn, drawn_there)
    assert all(map(torch.equal, gradients, other_gradients))
    assert all(metrics["loss/kl"] > 0 for _, metrics in losses if "loss/kl" in metrics)


@pytest.mark.parametrize("algorithm", ["gaussian_grpo"])
def test_a_loss_of_the_users_own_asks_by_itself(policy, batch, settings, monkeypatch):
    experience, reference = experience_of(policy, batch, settings, 0), Snapshot(policy, "cpu")
    losses = []
    for questions in (grpo.QUESTIONS, {}):
        monkeypatch.setattr(grpo, "QUESTIONS", questions)
        torch.manual_seed(2)
        losses.append([output.loss.item() for output in PolicyLoss(settings, reference)(policy, experience)])
    assert losses[0] == losses[1] and len(losses[0]) == 2 * PASSES["gaussian_grpo"]


@pytest.mark.parametrize("algorithm", ["gaussian_grpo"])
def test_the_copy_is_freed_where_asking_fails(policy, batch, settings):
    experience, reference = experience_of(policy, batch, settings, 0), Snapshot(policy, "cpu")

    def run_out_of_memory(*inputs: object) -> None:
        assert reference.moved is not None
        raise torch.OutOfMemoryError

    policy.register_forward_pre_hook(run_out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        next(PolicyLoss(settings, reference)(policy, experience))
    assert reference.moved is None
