"""Snapshots of a model's trained weights: the reference policy of stage 2, and the policy that sampled the rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from f5_tts.model.fsdp import is_dtensor, shard_like, to_local
from f5_tts.model.heads import Velocity


class Snapshot:
    """A model with the weights it had when the snapshot was taken; it is used without gradients.

    It copies the trained weights and shares all others with the model. With LoRA these are a few million numbers, not a
    second model. `device` stores the copy; each use moves it to the model's device, and those inside `on_device` move
    it once.
    """

    def __init__(self, model: nn.Module, device: str | None = None) -> None:
        self.model, self.device = model, device
        # inside `on_device` the tensors on the model's device, none before the first use
        self.moved: dict[str, Tensor] | None = None
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.store({name: value.detach().to(device, copy=True) for name, value in trained.items()})

    def store(self, tensors: dict[str, Tensor]) -> None:
        """Store these tensors in place of its own; on the CPU of a machine with a GPU in pinned memory."""
        is_pinned = self.device == "cpu" and torch.cuda.is_available()
        self.tensors = {name: value.pin_memory() for name, value in tensors.items()} if is_pinned else tensors

    def __call__(self, *inputs: Any, **options: Any) -> Velocity:
        """Run the model with the snapshot's weights; inputs and output are those of the model."""
        current = self.model.state_dict()  # includes buffers, which rl.ref_model_ckpt also loads
        if any(map(is_dtensor, current.values())):
            return self.forward_swapped(current, *inputs, **options)
        tensors = self.moved or self.move(current)
        if self.moved is not None:
            self.moved = tensors
        return functional_call(self.model, tensors, inputs, options)

    def move(self, current: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors on the devices of the model's own; those that are elsewhere are copied."""
        return {name: value.to(current[name].device, non_blocking=True) for name, value in self.tensors.items()}

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Keep the tensors on the model's device from their first use in the block to its end: they are copied once."""
        self.moved = {}
        try:
            yield
        finally:
            self.moved = None

    def forward_swapped(self, current: Mapping[str, Tensor], *inputs: Any, **options: Any) -> Velocity:
        """Run a sharded model with these weights, which are swapped with its own during the call."""
        pairs = [(to_local(current[name]), to_local(value)) for name, value in self.tensors.items()]
        swap_values(pairs)
        try:
            return self.model(*inputs, **options)
        finally:
            swap_values(pairs)

    @torch.no_grad()
    def ema_update(self, decay: float) -> None:
        """Update towards the model, as an EMA: decay * snapshot + (1 - decay) * model."""
        current = dict(self.model.named_parameters())
        for name, value in self.tensors.items():
            value.lerp_(current[name].detach().to(value.device), 1 - decay)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the values of another snapshot; raise ValueError if its tensors have other names."""
        if tensors.keys() != self.tensors.keys():
            differing = sorted(tensors.keys() ^ self.tensors.keys())[:3]
            raise ValueError(f"a snapshot holds other tensors than this model trains, e.g. {differing}")
        for name, value in shard_like(tensors, self.tensors).items():
            self.tensors[name].copy_(value)


def swap_values(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Swap the values of the two tensors of each pair, in place."""
    for one, other in pairs:
        saved = one.clone()
        one.copy_(other)
        other.copy_(saved)
