"""Fully sharded data parallelism (FSDP2): each rank holds a shard of every weight, gradient and optimizer state.

Only this module uses torch's `fully_shard`, which is imported on use because the import takes a second.
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
    """Shard a model over all ranks, in place; a block's weights are gathered only while it computes.

    From then on every forward and backward pass is collective: all ranks must run the same number of passes. Gradients
    are means over ranks. Unsharded state dicts can still be loaded; `gather_full_state` makes one to save.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(model.parameters()).device.type, (torch.distributed.get_world_size(),))
    for block in fsdp_units(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    model.register_load_state_dict_pre_hook(shard_on_load)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # no velocity is changed in place


def fsdp_units(model: CFM) -> list[nn.Module]:
    """List the modules that are gathered one at a time; all other layers are gathered for a whole pass."""
    return [
        block
        for module_list in model.transformer.children()
        if isinstance(module_list, nn.ModuleList)
        for block in module_list
    ]


def max_unsharded_numel(model: CFM) -> int:
    """Return the largest number of unsharded values on each rank during a pass, weights and their gradients.

    These are the layers outside the blocks, the block that computes, and the block that is being gathered or freed.
    """
    unit_numels = [sum(weight.numel() for weight in block.parameters()) for block in fsdp_units(model)]
    other_numel = sum(weight.numel() for weight in model.parameters()) - sum(unit_numels)
    return 2 * (other_numel + 2 * max(unit_numels))


def shard_numels(module: nn.Module, world_size: int = 1) -> list[int]:
    """Return the size of each weight's largest shard, in numbers, for so many ranks."""
    return [shard_numel(weight.shape, world_size) for weight in module.parameters()]


def shard_numel(shape: Sequence[int], world_size: int) -> int:
    """Return the size of the largest shard of a tensor, in numbers, whose rows are split over so many ranks."""
    return ceil(shape[0] / world_size) * prod(shape[1:])


def shard_on_load(module: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    """Shard the tensors of a state dict before it is loaded; a hook of `load_state_dict`."""
    parameters = {prefix + name: parameter for name, parameter in module.named_parameters()}
    state.update(shard_like({name: value for name, value in state.items() if name in parameters}, parameters))


def is_dtensor(value: object) -> bool:
    """Check whether a value is a DTensor."""
    return hasattr(value, "full_tensor")


def to_local(tensor: Any) -> Tensor:
    """Return this rank's shard of a tensor, in the same memory."""
    return tensor.to_local() if is_dtensor(tensor) else tensor


def to_full(tensor: Any) -> Tensor:
    """Gather a tensor from its shards; a collective call that every rank must make."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor


def gather_full_state(state: Any) -> Any:
    """Gather a nested state from its shards, as a run on one process has it.

    Rank 0 gets the tensors, one by one and on the CPU; the other ranks get None for each sharded tensor. This is a
    collective call that every rank must make.
    """
    if isinstance(state, Mapping):
        return {key: gather_full_state(value) for key, value in state.items()}
    if isinstance(state, list):
        return [gather_full_state(value) for value in state]
    if not is_dtensor(state):
        return state
    tensor = to_full(state)
    return tensor.cpu() if torch.distributed.get_rank() == 0 else None


def shard_like(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shard full tensors, which are equal on all ranks, as the tensors of the same names in `like` are sharded."""
    return {name: shard_tensor_like(value, like[name]) for name, value in tensors.items()}


def shard_optimizer_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Shard a full optimizer state: tensors of a weight's shape are sharded as that weight is."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    states = {
        index: {name: shard_tensor_like(value, weights[index]) for name, value in entry.items()}
        for index, entry in state["state"].items()
    }
    return {**state, "state": states}


def shard_tensor_like(value: Any, like: Any) -> Any:
    """Return this rank's shard of a full tensor as a copy; values of another shape or type are returned as is."""
    if not is_dtensor(like) or is_dtensor(value) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None).clone()
