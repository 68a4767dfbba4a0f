"""Precision of computing: which processors have units for bfloat16, and models that compute in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from f5_tts.model.heads import Velocity, VelocityModel

CPU_UNITS = {"AMX": "_is_amx_tile_supported", "AVX-512 BF16": "_is_avx512_bf16_supported"}  # unit -> function of torch


def bf16_unit(device: torch.device) -> str | None:
    """Return the unit that multiplies matrices in bfloat16 on a device, e.g. "AVX-512 BF16"; None without one."""
    if device.type == "cuda":
        return "GPU" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type != "cpu":
        return None
    return next((unit for unit, name in CPU_UNITS.items() if getattr(torch.cpu, name, lambda: False)()), None)


def choose_precision(requested: str, device: torch.device, key: str, log: Callable[[str], None] = print) -> str:
    """Return the precision for a config key: that requested, or for `auto` bf16 if the device has a unit, else no.

    What `auto` becomes is said.
    """
    if requested != "auto":
        return requested
    unit = bf16_unit(device)
    lacks = f"a {device.type} without one of {', '.join(CPU_UNITS)}" if device.type == "cpu" else device.type
    log(f"{key}=auto: {f'bf16, by {unit}' if unit else f'single precision, on {lacks}'}")
    return "bf16" if unit else "no"


def in_bf16(model: VelocityModel) -> VelocityModel:
    """Return the model with its matrix products in bfloat16; the velocity is in single precision."""

    def velocity(x: Tensor, *inputs: Any, **options: Any) -> Velocity:
        with torch.autocast(x.device.type, torch.bfloat16):
            mean, ln_sigma, text_embedding = model(x, *inputs, **options)
        return Velocity(mean.float(), None if ln_sigma is None else ln_sigma.float(), text_embedding)

    return velocity
