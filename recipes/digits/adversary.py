"""Worst-case changes of log-mels within a bound, for the adversarial training of `digits_ctc`.

A recognizer that was trained against them cannot be pleased by small changes, so its gradient points towards clearer
speech (Madry et al. 2018, arXiv 1706.06083; Santurkar et al. 2019, arXiv 1906.09453).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

STEPS = 2  # gradients of a change
STEP_SIZE = 0.7  # of the bound


def change_worst(
    loss: Callable[[list[Tensor]], Float[Tensor, ""]],
    mels: Sequence[Float[Tensor, "n d"]],
    bounds: Sequence[float],
    rng: np.random.Generator,
) -> list[Float[Tensor, "n d"]]:
    """Change the entries of each log-mel by at most its bound (nats), so that the loss of all rises most.

    This is projected gradient ascent: STEPS steps along the signs of the gradient, from uniform random changes.
    """
    changes = [bound * uniform_like(mel, rng) for mel, bound in zip(mels, bounds, strict=True)]
    for _ in range(STEPS):
        moved = [(mel + change).requires_grad_() for mel, change in zip(mels, changes, strict=True)]
        gradients = torch.autograd.grad(loss(moved), moved)
        changes = [
            (change + STEP_SIZE * bound * gradient.sign()).clamp(-bound, bound)
            for change, bound, gradient in zip(changes, bounds, gradients, strict=True)
        ]
    return [mel + change for mel, change in zip(mels, changes, strict=True)]


def uniform_like(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw from [-1, 1) for each entry of a log-mel."""
    return torch.from_numpy(rng.uniform(-1, 1, mel.shape).astype(np.float32))
