"""Peak memory of tensors while code runs, counted on real tensors or on fake ones without memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from f5_tts.model.backbones.kernels import torch_kernels
from f5_tts.model.cfm import CFM


class PeakMemoryCounter(TorchDispatchMode):
    """Counter of the bytes of all live tensors made inside its `with` block: `current` and `peak`.

    It counts the outputs of torch operators, what autograd saves, and gradients. It does not count the workspace of
    kernels or the rounding of an allocator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self.seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self.seen.update(storages((args, kwargs)))  # inputs: counted already, or older than this context
        result = func(*args, **(kwargs or {}))
        for storage in storages(result):
            if storage not in self.seen:
                self.add(storage)
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a new storage until it is freed."""
        self.seen.add(storage)
        self.current += storage.nbytes()
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self.release, storage.nbytes())

    def release(self, num: int) -> None:
        """Subtract the bytes of a freed storage."""
        self.current -= num


def storages(tree: Any) -> list[torch.UntypedStorage]:
    """List the storages of all tensors in a nested structure."""
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def forward_bytes(
    model: CFM,
    num: int,
    frames: int,
    *,
    cfg_strength: float = 0.0,
    grad_uncond: bool = True,
    bf16: bool = False,
    with_backward: bool = True,
) -> int:
    """Measure the peak bytes of a forward pass of `num` clips; `with_backward` adds the backward pass.

    Weights and their gradients are not counted. Activations count as torch saves them; with
    model.arch.checkpoint_activations these are the inputs of all blocks and the inside of one. With `bf16` the copies
    of trained weights that autocast makes count too. Under torch's FakeTensorMode, with a fake model, nothing is
    computed.
    """
    x, cond = torch.zeros(2, num, frames, model.transformer.proj_out.out_features).unbind()
    text, time = torch.zeros(num, frames, dtype=torch.long), torch.zeros(num)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    as_on_gpu = norms_in_single_precision(model), torch_kernels()
    with as_on_gpu[0], as_on_gpu[1], PeakMemoryCounter() as counter, torch.set_grad_enabled(with_backward):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            velocity = model(x, cond, text, time, cfg_strength=cfg_strength, grad_uncond=grad_uncond)
        if with_backward:
            torch.cat([tensor.float() for tensor in velocity[:2] if tensor is not None]).mean().backward()
    return counter.peak


@contextmanager
def norms_in_single_precision(model: nn.Module) -> Iterator[None]:
    """Run layer norms in float32 under autocast, as a GPU does and the CPU does not; elsewhere nothing changes."""
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),)) for norm in norms]
    yield
    for hook in hooks:
        hook.remove()
