"""AdamW, optionally with 8-bit states, and the learning-rate schedule."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from f5_tts.config.schema import OptimConfig
from f5_tts.extras import install_hint
from f5_tts.model.compare import first_mismatch

MIN_RATE = 1e-8  # fraction of the learning rate at the first and after the last update

MIN_8BIT_NUMEL = 4096  # smallest number of elements of a tensor for which bitsandbytes keeps 8-bit states
MakeOptimizer = Callable[..., Optimizer]  # (parameters, lr=...) -> optimizer


def learning_rate_factor(update: int, warmup: int, total: int) -> float:
    """Compute the learning rate before an update, as a fraction of the maximum.

    It rises linearly from about 0 during the warm-up and falls linearly to about 0 at `total`.
    """
    if update < warmup:
        return MIN_RATE + (1 - MIN_RATE) * update / warmup
    return 1 + (MIN_RATE - 1) * min(1.0, (update - warmup) / max(1, total - warmup))


def check_schedule(optim: OptimConfig, total: int) -> None:
    """Raise ValueError when a run of `total` updates makes none, or would end within its warm-up."""
    if total == 0:
        raise ValueError(
            f"optim.grad_accumulation_steps={optim.grad_accumulation_steps}: the data set has too few batches for one "
            "update; lower it or datasets.batch_size_per_gpu, or raise optim.epochs"
        )
    if optim.num_warmup_updates >= total:
        raise ValueError(
            f"optim.num_warmup_updates={optim.num_warmup_updates} does not end before the run, which has {total} "
            "updates: lower it, or raise optim.epochs or optim.max_updates"
        )


def choose_optimizer(optim: OptimConfig, device: torch.device, log: Callable[[str], None] = print) -> MakeOptimizer:
    """Choose AdamW: that of bitsandbytes with 8-bit states if optim.bnb_optimizer asks for it and it works here.

    Otherwise it is torch's AdamW. Raises ImportError without bitsandbytes.
    """
    adamw = partial(AdamW, fused=True)
    if not optim.bnb_optimizer:
        return adamw
    logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)  # of kernels that no optimizer has
    try:
        import bitsandbytes
    except ImportError as error:
        raise ImportError(
            f"optim.bnb_optimizer=true needs bitsandbytes: {install_hint('bitsandbytes')}, or set "
            "optim.bnb_optimizer=false"
        ) from error
    eight_bits: MakeOptimizer = bitsandbytes.optim.AdamW8bit  # pyright: ignore[reportPrivateImportUsage]
    reason = probe_optimizer(eight_bits, device)
    if reason is None:
        return eight_bits
    log(
        f"warning: optim.bnb_optimizer=true: bitsandbytes {bitsandbytes.__version__} does not work on {device} here "
        f"({reason}), so torch's AdamW is used instead; its states need four times the memory"
    )
    return adamw


def probe_optimizer(make: MakeOptimizer, device: torch.device) -> str | None:
    """Probe whether an optimizer can take a step on a device; return the reason why not, or None.

    Without a fitting native library, bitsandbytes can be imported and built, and only its step raises.
    """
    weights = torch.nn.Parameter(torch.zeros(MIN_8BIT_NUMEL, device=device))
    weights.grad = torch.ones_like(weights)
    try:
        make([weights], lr=0.1).step()
        moved = bool((weights < 0).all())
    except (RuntimeError, NameError, AttributeError, OSError) as error:
        return str(error).partition("\n")[0]
    return None if moved else "its step changes no weight"


def explain_misfit(saved: dict[str, Any], optimizer: Optimizer, model: nn.Module) -> str | None:
    """Describe where saved states do not fit the parameters that an optimizer of the same class trains, or None.

    Fused optimizers do not check this: they would read and write out of bounds. A parameter may have no state, which
    is so until it gets a gradient.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    indices = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    groups, states = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or [isinstance(one, dict) and one.get("params") for one in groups] != indices:
        return f"its optimizer does not have the {len(parameters)} trained tensors of this run"
    if not isinstance(states, dict) or not states.keys() <= set(range(len(parameters))):
        return "its optimizer has states of other tensors"
    expected: dict[tuple[Any, ...], Any] = {}  # many tensors have one shape
    for index, state in states.items():
        parameter = parameters[index]
        key = (parameter.shape, parameter.dtype, parameter.device)
        expected[key] = expected.get(key) or first_state(optimizer, parameter)
        if misfit := first_mismatch(state, expected[key], f"the optimizer state of {names[id(parameter)]}"):
            return misfit
    return None


def first_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Any]:
    """Return the state that the first step of an optimizer of this class makes for a parameter like this one."""
    probe = nn.Parameter(torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device))
    probe.grad = torch.zeros_like(probe)
    make: Any = type(optimizer)
    alone = make([probe], lr=0.0)
    alone.step()
    return alone.state_dict()["state"][0]
