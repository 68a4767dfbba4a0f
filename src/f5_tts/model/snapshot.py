"""A model as it was at some moment, beside the model as it is: the reference of stage 2, and the policy that drew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from f5_tts.model.fsdp import is_dtensor, shard_like, to_local
from f5_tts.model.heads import Velocity


class Snapshot:
    """Answers as the model did when it was taken; use it without gradients.

    It holds a copy of what is trained and shares everything else with the model: with LoRA a few million numbers, and
    no second model. `device` is where the copy waits; each use brings it to where the model is.
    """

    def __init__(self, model: nn.Module, device: str | None = None) -> None:
        self.model, self.device = model, device
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.tensors = {name: value.detach().to(device, copy=True) for name, value in trained.items()}

    def __call__(self, *inputs: Any, **options: Any) -> Velocity:
        current = self.model.state_dict()  # rl.ref_model_ckpt brings buffers too
        if any(map(is_dtensor, current.values())):
            return self.forward_swapped(current, *inputs, **options)
        tensors = {name: value.to(current[name].device) for name, value in self.tensors.items()}
        return functional_call(self.model, tensors, inputs, options)

    def forward_swapped(self, current: Mapping[str, Tensor], *inputs: Any, **options: Any) -> Velocity:
        """Of a model in shards, which knows no other weights than its own: theirs and these change places meanwhile."""
        pairs = [(to_local(current[name]), to_local(value)) for name, value in self.tensors.items()]
        swap_values(pairs)
        try:
            return self.model(*inputs, **options)
        finally:
            swap_values(pairs)

    @torch.no_grad()
    def ema_update(self, decay: float) -> None:
        """Move towards the model: decay times what it was plus (1 - decay) times what the model is."""
        current = dict(self.model.named_parameters())
        for name, value in self.tensors.items():
            value.lerp_(current[name].detach().to(value.device), 1 - decay)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values of another snapshot, by the same names."""
        if tensors.keys() != self.tensors.keys():
            differing = sorted(tensors.keys() ^ self.tensors.keys())[:3]
            raise ValueError(f"a snapshot holds other tensors than this model trains, e.g. {differing}")
        for name, value in shard_like(tensors, self.tensors).items():
            self.tensors[name].copy_(value)


def swap_values(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Let the two of each pair have each other's values."""
    for one, other in pairs:
        saved = one.clone()
        one.copy_(other)
        other.copy_(saved)
