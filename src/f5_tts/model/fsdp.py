"""A model in shards: each process holds its part of every weight, gradient and optimizer state (FSDP2).

By `fully_shard` of torch, which no other file knows; it is imported where shards are asked for, as it takes a second.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from f5_tts.model.cfm import CFM


def shard(model: CFM) -> None:
    """Divide a model among all processes, in place; a block's weights are whole only while it computes.

    From then on every pass, forward or backward, needs all processes: each makes as many as the others. Gradients are
    means over all of them. Whole tensors can be loaded as before; `whole` makes a state that anybody can load.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(model.parameters()).device.type, (torch.distributed.get_world_size(),))
    for block in blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    model.register_load_state_dict_pre_hook(divide_what_is_loaded)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nobody changes a velocity in place


def blocks(model: CFM) -> list[nn.Module]:
    """What is brought together for itself, while it computes; the layers outside are for a whole pass."""
    return [block for part in model.transformer.children() if isinstance(part, nn.ModuleList) for block in part]


def whole_at_work(model: CFM) -> int:
    """Numbers that lie whole on each process during a pass, at most: the layers outside the blocks, the block that
    computes and its neighbour, which comes or goes; each with its gradients."""
    of_blocks = [sum(weight.numel() for weight in block.parameters()) for block in blocks(model)]
    outside = sum(weight.numel() for weight in model.parameters()) - sum(of_blocks)
    return 2 * (outside + 2 * max(of_blocks))


def part_sizes(module: nn.Module, among: int = 1) -> list[int]:
    """Numbers in a process's part of each weight, the largest, of so many processes."""
    return [part_size(weight.shape, among) for weight in module.parameters()]


def part_size(shape: Sequence[int], among: int) -> int:
    """Of a tensor whose rows are divided."""
    return ceil(shape[0] / among) * prod(shape[1:])


def divide_what_is_loaded(module: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    """A hook of `load_state_dict`."""
    own = {prefix + name: parameter for name, parameter in module.named_parameters()}
    state.update(divided({name: value for name, value in state.items() if name in own}, own))


def is_divided(value: object) -> bool:
    """Whether it is a DTensor."""
    return hasattr(value, "full_tensor")


def own_part(tensor: Any) -> Tensor:
    """What of a tensor lies on this process, in the same memory."""
    return tensor.to_local() if is_divided(tensor) else tensor


def undivided(tensor: Any) -> Tensor:
    """All of a tensor; of a divided one on every process, and every process must ask."""
    return tensor.full_tensor() if is_divided(tensor) else tensor


def whole(state: Any) -> Any:
    """A nested state without shards, as one process alone has it: for the main process, the others get None for each
    divided tensor. Every process must ask; tensors are brought together one by one, and wait on the CPU."""
    if isinstance(state, Mapping):
        return {key: whole(part) for key, part in state.items()}
    if isinstance(state, list):
        return [whole(part) for part in state]
    if not is_divided(state):
        return state
    tensor = undivided(state)
    return tensor.cpu() if torch.distributed.get_rank() == 0 else None


def divided(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, the same on all processes, as `like` has those of their names: this process's part of them."""
    return {name: part_of(value, like[name]) for name, value in tensors.items()}


def divided_states(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A whole state of an optimizer, with what has a number for each weight divided as the weights are."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    states = {
        index: {name: part_of(value, weights[index]) for name, value in entry.items()}
        for index, entry in state["state"].items()
    }
    return {**state, "state": states}


def part_of(value: Any, like: Any) -> Any:
    """This process's part of a whole tensor, in memory of its own; what has another shape or is no tensor stays."""
    if not is_divided(like) or is_divided(value) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None).clone()
