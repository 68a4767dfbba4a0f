"""Finite differences of reward losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def relative_error(
    loss: Callable[[Tensor], Tensor], point: Tensor, *, num: int = 8, seed: int = 0, step: float = 1e-6
) -> float:
    """Compare the gradient of a loss at a point (float64) with central differences along random directions.

    Returns the largest deviation of a directional derivative, relative to the largest derivative of all directions.
    """
    point = point.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(point), point)
    directions = torch.randn(num, *point.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        differences = [(loss(point + step * d) - loss(point - step * d)) / (2 * step) for d in directions]
    expected = torch.stack(differences)
    actual = (directions * gradient).flatten(1).sum(dim=1)
    return float((actual - expected).abs().max() / expected.abs().max())
