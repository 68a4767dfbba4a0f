"""Kernels of the layers: torch's own, and faster ones for bfloat16 on a CPU; this file alone chooses between them.

On a CPU, torch's attention, Mish and dropout gain nothing from bfloat16, while its matrix products do. All other cases
(single precision, GPUs) are torch's kernels, so that their numbers do not depend on this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

OWN_KERNELS = ContextVar("own kernels", default=True)
DRAWS = 1 << 16  # values of the 16-bit numbers that dropout draws


@contextmanager
def torch_kernels() -> Iterator[None]:
    """Use torch's kernels alone inside the block, as on a GPU."""
    token = OWN_KERNELS.set(False)
    try:
        yield
    finally:
        OWN_KERNELS.reset(token)


def has_own_kernel(x: Tensor) -> bool:
    """Check whether a tensor is of the kind for which this file has kernels: bfloat16 on a CPU."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and OWN_KERNELS.get()


def attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n d"],
    mask: Bool[Tensor, "b n"] | None,
) -> Float[Tensor, "b h n d"]:
    """Compute attention over all frames, or over the valid ones, which must come first; padding gets any numbers."""
    if has_own_kernel(v):
        lens = [q.shape[2]] * len(q) if mask is None else mask.sum(1).tolist()
        out = AttentionByItem.apply(q.to(v.dtype), k.to(v.dtype), v, lens)
        assert isinstance(out, Tensor)
        return out
    # broadcast over heads and queries, which fast kernels accept
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None])


class AttentionByItem(torch.autograd.Function):
    """Attention of one item after the other by two matrix products and a softmax over the item's own frames.

    No mask is needed. The backward pass computes the probabilities again, so that memory holds those of one item.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lens: list[int]) -> Tensor:
        """Compute the attention of frames before each item's length; the others are zero."""
        ctx.save_for_backward(q, k, v)
        ctx.lens = lens
        out = torch.zeros_like(q)
        for item, num in enumerate(lens):
            query, key, value = (part[item, :, :num] for part in (q, k, v))
            torch.bmm(probabilities(query, key), value, out=out[item, :, :num])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of queries, keys and values."""
        q, k, v = ctx.saved_tensors
        (out_gradient,) = gradients
        all_gradients = [torch.zeros_like(part) for part in (q, k, v)]
        for item, num in enumerate(ctx.lens):
            query, key, value, upper = (part[item, :, :num] for part in (q, k, v, out_gradient))
            q_gradient, k_gradient, v_gradient = (part[item, :, :num] for part in all_gradients)
            chosen = probabilities(query, key)
            torch.bmm(chosen.transpose(1, 2), upper, out=v_gradient)
            score_gradient = softmax_gradient(chosen, torch.bmm(upper, value.transpose(1, 2))) * scale(query)
            torch.bmm(score_gradient, key, out=q_gradient)
            torch.bmm(score_gradient.transpose(1, 2), query, out=k_gradient)
        return *all_gradients, None


def probabilities(query: Float[Tensor, "h n d"], key: Float[Tensor, "h n d"]) -> Float[Tensor, "h n n"]:
    """Compute the attention of each frame to each frame of one item."""
    return torch.bmm(query * scale(query), key.transpose(1, 2)).softmax(dim=-1)


def softmax_gradient(chosen: Float[Tensor, "h n n"], upper: Float[Tensor, "h n n"]) -> Float[Tensor, "h n n"]:
    """Compute the gradient of the scores from that of their softmax, in one pass."""
    return torch.ops.aten._softmax_backward_data(upper, chosen, -1, chosen.dtype)


def scale(query: Tensor) -> float:
    """Return the factor on the scores, 1 / √d."""
    return query.shape[-1] ** -0.5


def add_product(added: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Compute added + one * other; in bfloat16 on a CPU in one pass over the data."""
    is_one_pass = has_own_kernel(one) and one.dtype == other.dtype == added.dtype
    return torch.addcmul(added, one, other) if is_one_pass else added + one * other


class GELU(nn.GELU):
    """Activation GELU, approximated by tanh; in bfloat16 on a CPU the exact one, for which oneDNN has a fast kernel.

    They differ by at most 5e-4, less than bfloat16 rounds both to.
    """

    def __init__(self) -> None:
        super().__init__(approximate="tanh")

    def forward(self, input: Tensor) -> Tensor:
        """Compute the activation."""
        return F.gelu(input) if has_own_kernel(input) else super().forward(input)


class Mish(nn.Mish):
    """Activation x tanh(ln(1 + e^x)); in bfloat16 on a CPU from e^x."""

    def forward(self, input: Tensor) -> Tensor:
        """Compute the activation."""
        if not has_own_kernel(input):
            return super().forward(input)
        out = MishByExp.apply(input)
        assert isinstance(out, Tensor)
        return out


class MishByExp(torch.autograd.Function):
    """Mish as x n / (n + 2) with n = e^x (e^x + 2), which is x itself in bfloat16 above 10."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Compute the activation."""
        ctx.save_for_backward(x)
        exp = x.clamp(max=10).exp()
        numerator = exp * (exp + 2)
        return x * numerator.div_(numerator + 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Compute the gradient by torch's kernel."""
        return torch.ops.aten.mish_backward(gradients[0], ctx.saved_tensors[0])


class Dropout(nn.Dropout):
    """Dropout; in bfloat16 on a CPU from random numbers of 16 bits, four of which come from one draw."""

    def forward(self, input: Tensor) -> Tensor:
        """Set entries to zero with probability p while training, and scale the others by 1 / (1 - p)."""
        if not (self.training and 0 < self.p < 1 and has_own_kernel(input)):
            return super().forward(input)
        num_words = -(-input.numel() // 4)
        words = torch.empty(num_words, dtype=torch.int64).random_(-(2**63), 2**63 - 1)
        is_kept = words.view(torch.int16)[: input.numel()].view(input.shape) >= round(DRAWS * self.p) - DRAWS // 2
        return input * is_kept.to(input.dtype).mul_(1 / (1 - self.p))
