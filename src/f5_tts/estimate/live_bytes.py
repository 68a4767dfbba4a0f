"""How many bytes tensors hold, counted while code runs: on real tensors, or on such as have a shape and no memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from f5_tts.model.cfm import CFM


class PeakMemoryCounter(TorchDispatchMode):
    """Inside its `with`: the bytes of all tensors that were made there and are alive, `now` and at `most`.

    It sees what torch's operators return, what autograd keeps of it and gradients included; not what a kernel needs
    while it works, nor an allocator's rounding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self.seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self.seen.update(storages((args, kwargs)))  # counted when they were made, or older
        result = func(*args, **(kwargs or {}))
        for storage in storages(result):
            if storage not in self.seen:
                self.add(storage)
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        self.seen.add(storage)
        self.current += storage.nbytes()
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self.release, storage.nbytes())

    def release(self, num: int) -> None:
        self.current -= num


def storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def forward_bytes(
    model: CFM, num: int, frames: int, *, cfg_strength: float = 0.0, bf16: bool = False, with_backward: bool = True
) -> int:
    """The most that a forward pass of `num` clips holds beside weights and gradients, or with `learn` that and its
    backward pass.

    Activations as torch saves them (with model.arch.checkpoint_activations an input a block and the inside of one),
    and with `bf16` the copies of trained weights that autocast keeps during a forward pass. Under torch's
    FakeTensorMode, model included, nothing is computed.
    """
    x, cond = torch.zeros(2, num, frames, model.transformer.proj_out.out_features).unbind()
    text, time = torch.zeros(num, frames, dtype=torch.long), torch.zeros(num)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    with norms_in_single_precision(model), PeakMemoryCounter() as counter, torch.set_grad_enabled(with_backward):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            velocity = model(x, cond, text, time, cfg_strength=cfg_strength)
        if with_backward:
            torch.cat([tensor.float() for tensor in velocity[:2] if tensor is not None]).mean().backward()
    return counter.peak


@contextmanager
def norms_in_single_precision(model: nn.Module) -> Iterator[None]:
    """What autocast does on a GPU and not on the CPU; outside autocast no change."""
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),)) for norm in norms]
    yield
    for hook in hooks:
        hook.remove()
