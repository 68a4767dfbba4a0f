"""What the last layers say about the velocity: its mean, and for a Gaussian policy how sure they are of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class Velocity(NamedTuple):
    """Distribution of the velocity at one point of the flow; a tuple, so that parallel wrappers can cast it."""

    mean: Tensor  # b n d
    ln_sigma: Tensor | None  # b n d, log of the standard deviation; None on a deterministic model
    text_embedding: Tensor | None = None  # the text as the network embedded it; handed back, it is not embedded again


VelocityModel = Callable[..., Velocity]  # a model, wrapped or not: called as CFM.forward


def velocity_heads(dim: int, mel_dim: int, gaussian: bool) -> tuple[nn.Linear, nn.Linear | None]:
    """Features -> mean of the velocity, and for a Gaussian its log standard deviation."""
    return nn.Linear(dim, mel_dim), nn.Linear(dim, mel_dim) if gaussian else None


def init_gaussian_head(layer: nn.Linear, ln_sigma: float) -> None:
    """An untrained head says exp(`ln_sigma`) everywhere, whatever it sees."""
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, ln_sigma)
