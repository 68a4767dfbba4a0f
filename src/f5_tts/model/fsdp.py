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


def shard_model(model: CFM) -> None:
    """Divide a model among all processes, in place; a block's weights are whole only while it computes.

    From then on every pass, forward or backward, needs all processes: each makes as many as the others. Gradients are
    means over all of them. Whole tensors can be loaded as before; `whole` makes a state that anybody can load.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(model.parameters()).device.type, (torch.distributed.get_world_size(),))
    for block in fsdp_units(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    model.register_load_state_dict_pre_hook(shard_on_load)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nobody changes a velocity in place


def fsdp_units(model: CFM) -> list[nn.Module]:
    """What is brought together for itself, while it computes; the layers outside are for a whole pass."""
    return [
        block
        for module_list in model.transformer.children()
        if isinstance(module_list, nn.ModuleList)
        for block in module_list
    ]


def max_unsharded_numel(model: CFM) -> int:
    """Numbers that lie whole on each process during a pass, at most: the layers outside the blocks, the block that
    computes and its neighbour, which comes or goes; each with its gradients."""
    unit_numels = [sum(weight.numel() for weight in block.parameters()) for block in fsdp_units(model)]
    other_numel = sum(weight.numel() for weight in model.parameters()) - sum(unit_numels)
    return 2 * (other_numel + 2 * max(unit_numels))


def shard_numels(module: nn.Module, world_size: int = 1) -> list[int]:
    """Numbers in a process's part of each weight, the largest, of so many processes."""
    return [shard_numel(weight.shape, world_size) for weight in module.parameters()]


def shard_numel(shape: Sequence[int], world_size: int) -> int:
    """Of a tensor whose rows are divided."""
    return ceil(shape[0] / world_size) * prod(shape[1:])


def shard_on_load(module: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    """A hook of `load_state_dict`."""
    parameters = {prefix + name: parameter for name, parameter in module.named_parameters()}
    state.update(shard_like({name: value for name, value in state.items() if name in parameters}, parameters))


def is_dtensor(value: object) -> bool:
    """Whether it is a DTensor."""
    return hasattr(value, "full_tensor")


def to_local(tensor: Any) -> Tensor:
    """What of a tensor lies on this process, in the same memory."""
    return tensor.to_local() if is_dtensor(tensor) else tensor


def to_full(tensor: Any) -> Tensor:
    """All of a tensor; of a divided one on every process, and every process must ask."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor


def gather_full_state(state: Any) -> Any:
    """A nested state without shards, as one process alone has it: for the main process, the others get None for each
    divided tensor. Every process must ask; tensors are brought together one by one, and wait on the CPU."""
    if isinstance(state, Mapping):
        return {key: gather_full_state(value) for key, value in state.items()}
    if isinstance(state, list):
        return [gather_full_state(value) for value in state]
    if not is_dtensor(state):
        return state
    tensor = to_full(state)
    return tensor.cpu() if torch.distributed.get_rank() == 0 else None


def shard_like(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, the same on all processes, as `like` has those of their names: this process's part of them."""
    return {name: shard_tensor_like(value, like[name]) for name, value in tensors.items()}


def shard_optimizer_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A whole state of an optimizer, with what has a number for each weight divided as the weights are."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    states = {
        index: {name: shard_tensor_like(value, weights[index]) for name, value in entry.items()}
        for index, entry in state["state"].items()
    }
    return {**state, "state": states}


def shard_tensor_like(value: Any, like: Any) -> Any:
    """This process's part of a whole tensor, in memory of its own; what has another shape or is no tensor stays."""
    if not is_dtensor(like) or is_dtensor(value) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None).clone()
