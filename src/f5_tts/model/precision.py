"""Precision of computing: processors that are faster in bfloat16, and models that compute in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from f5_tts.model.heads import Velocity, VelocityModel

CPU_UNITS = {"AMX": "_is_amx_tile_supported", "AVX-512 BF16": "_is_avx512_bf16_supported"}  # unit -> function of torch
MIN_SPEEDUP = 1.2  # of matrix products on a CPU, from which on bf16 is taken: it also adds copies
NUM_TRIALS = 3  # of which the best counts, since other programs may run


def bf16_unit(device: torch.device) -> str | None:
    """Return the unit that multiplies matrices in bfloat16 on a device, e.g. "AVX-512 BF16"; None without one."""
    if device.type == "cuda":
        return "GPU" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type != "cpu":
        return None
    return next((unit for unit, name in CPU_UNITS.items() if getattr(torch.cpu, name, lambda: False)()), None)


def choose_precision(requested: str, device: torch.device, key: str, log: Callable[[str], None] = print) -> str:
    """Return the precision for a config key: that requested, or for `auto` bf16 if the device is faster in it, else no.

    What `auto` becomes is said.
    """
    if requested != "auto":
        return requested
    is_faster, reason = compare_precisions(device)
    log(f"{key}=auto: {'bf16' if is_faster else 'single precision'}, {reason}")
    return "bf16" if is_faster else "no"


def compare_precisions(device: torch.device) -> tuple[bool, str]:
    """Check whether a device is faster in bfloat16, and say by what; a CPU that has a unit for it is measured."""
    unit = bf16_unit(device)
    if unit is None:
        return False, f"on a cpu without one of {', '.join(CPU_UNITS)}" if device.type == "cpu" else f"on {device.type}"
    if device.type != "cpu":
        return True, f"by {unit}"
    single, half = product_seconds()
    found = f"{1000 * half:.3g} ms in bf16 by {unit} and {1000 * single:.3g} ms in single precision"
    return single >= MIN_SPEEDUP * half, f"since a matrix product takes {found}"


@cache
def product_seconds() -> tuple[float, float]:
    """Measure a matrix product on the CPU, once per process: its seconds in single precision and in bfloat16.

    It is that of 256 frames with a layer of 1024 inputs and outputs.
    """
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(NUM_TRIALS):
        for dtype, best in seconds.items():
            frames, weight = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
            start = time.perf_counter()
            linear(frames, weight)
            seconds[dtype] = min(best, time.perf_counter() - start)
    return seconds[torch.float32], seconds[torch.bfloat16]


def in_bf16(model: VelocityModel) -> VelocityModel:
    """Return the model with its matrix products in bfloat16; the velocity is in single precision."""

    def velocity(x: Tensor, *inputs: Any, **options: Any) -> Velocity:
        with torch.autocast(x.device.type, torch.bfloat16):
            mean, ln_sigma, text_embedding = model(x, *inputs, **options)
        return Velocity(mean.float(), None if ln_sigma is None else ln_sigma.float(), text_embedding)

    return velocity
