"""Losses of waveforms, with the graph of one clip at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def clip_losses(clips: Sequence[Tensor | None], loss: Callable[[Tensor, int], Tensor]) -> Float[Tensor, " b"]:
    """Compute the loss of each clip and its index, on the CPU; NaN for None.

    With gradients, each clip's loss is differentiated at once, so that memory holds the activations of one clip.
    """
    values = [math.nan if clip is None else loss_of_clip(clip, index, loss) for index, clip in enumerate(clips)]
    tensors = [value for value in values if isinstance(value, Tensor)]
    missing = tensors[0].new_tensor(math.nan) if tensors else torch.tensor(math.nan)
    return torch.stack([value if isinstance(value, Tensor) else missing for value in values])


def loss_of_clip(clip: Tensor, index: int, loss: Callable[[Tensor, int], Tensor]) -> Float[Tensor, ""]:
    """Compute the loss of one clip: its first-order expansion, which has the same value and gradient."""
    if not (torch.is_grad_enabled() and clip.requires_grad):
        return loss(clip, index).cpu()
    start = clip.detach().requires_grad_()
    value = loss(start, index)
    (gradient,) = torch.autograd.grad(value, start)
    change = (gradient * (clip - clip.detach())).sum()  # 0
    return value.detach().cpu() + change.cpu()
