"""Output layers of the velocity: its mean, and for a Gaussian policy its log standard deviation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class Velocity(NamedTuple):
    """Distribution of the velocity at one point of the flow; a tuple, so that parallel wrappers can cast it."""

    mean: Tensor  # b n d
    ln_sigma: Tensor | None  # b n d, log of the standard deviation; None on a deterministic model
    text_embedding: Tensor | None = None  # b n e, the embedded text; passed to the next call, it is not computed again


VelocityModel = Callable[..., Velocity]  # a model, wrapped or not, with the signature of CFM.forward


def velocity_heads(dim: int, mel_dim: int, gaussian: bool) -> tuple[nn.Linear, nn.Linear | None]:
    """Make the output layers of the velocity's mean and, for a Gaussian, of its log standard deviation."""
    return nn.Linear(dim, mel_dim), nn.Linear(dim, mel_dim) if gaussian else None


def init_gaussian_head(layer: nn.Linear, ln_sigma: float) -> None:
    """Initialize the head so that its standard deviation is exp(`ln_sigma`) for every input."""
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, ln_sigma)
