"""Flow path from noise (t = 0) to speech (t = 1), time grids, and ODE solvers for any velocity field."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

# Empirically pruned step sampling (Zheng et al. 2025, arXiv 2505.19931): grid points in units of 1/32.
EPSS_GRIDS = {
    5: [0, 2, 4, 8, 16, 32],
    6: [0, 2, 4, 6, 8, 16, 32],
    7: [0, 2, 4, 6, 8, 16, 24, 32],
    10: [0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32],
    12: [0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32],
    16: [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32],
}


def interpolate(
    noise: Float[Tensor, "b n d"], speech: Float[Tensor, "b n d"], time: Float[Tensor, " b"]
) -> Float[Tensor, "b n d"]:
    """Interpolate between noise and speech: x_t = (1 - t) x_0 + t x_1."""
    return torch.lerp(noise, speech, time[:, None, None])


def sway(times: Float[Tensor, ...], coef: float) -> Float[Tensor, ...]:
    """Shift times towards 0 (coef < 0) or 1: t + s (cos(π t / 2) - 1 + t); s = -1 gives 1 - cos(π t / 2)."""
    return times + coef * (torch.cos(math.pi / 2 * times) - 1 + times)


def time_grid(steps: int, sway_coef: float | None, epss: bool = False) -> Float[Tensor, " s"]:
    """Return the `steps` + 1 times of a solver, from 0 to 1.

    The grid is that of EPSS if `epss` is true and there is one for `steps`, else uniform. `sway_coef` shifts it
    afterwards.
    """
    grid = EPSS_GRIDS.get(steps) if epss else None
    times = torch.linspace(0, 1, steps + 1) if grid is None else torch.tensor(grid) / 32
    return times if sway_coef is None else sway(times, sway_coef)


def solve(
    velocity: Callable[[Float[Tensor, "b n d"], Float[Tensor, ""]], Float[Tensor, "b n d"]],
    noise: Float[Tensor, "b n d"],
    times: Float[Tensor, " s"],
    method: str = "euler",
) -> Float[Tensor, "b n d"]:
    """Integrate the velocity from `noise`, at the first of `times`, to the state at the last one.

    Method `euler` is of first order; `midpoint` is of second order and evaluates the velocity twice per step.
    """
    x = noise
    for time, next_time in pairwise(times):
        slope, step = velocity(x, time), next_time - time
        if method == "midpoint":
            slope = velocity(x + step / 2 * slope, time + step / 2)
        x = x + step * slope
    return x
