"""Parts that the backbones share; parameter names and shapes are those of the published F5-TTS checkpoints.

Everywhere `mask` is True on real frames, and None when no frame of the batch is padding. Given a mask, each
part computes for an item what it would compute for it alone, whatever the item is batched with.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Flow time in [0, 1] -> conditioning vector: sinusoids of 1000 t, then a two-layer perceptron."""

    FREQUENCIES = 256

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(self.FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        half = self.FREQUENCIES // 2
        rates = torch.exp(torch.arange(half, device=time.device) * (-math.log(10000) / (half - 1)))
        angles = 1000 * time[:, None] * rates
        return self.time_mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary position code, one pair of neighbouring channels a frequency."""

    inv_freq: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, dim, 2).float() / dim))

    def forward(self, length: int) -> tuple[Float[Tensor, "n h"], Float[Tensor, "n h"]]:
        angles = torch.arange(length, device=self.inv_freq.device)[:, None] * self.inv_freq.float()
        return angles.cos(), angles.sin()


def rotate(x: Float[Tensor, "b heads n d"], cos: Float[Tensor, "n h"], sin: Float[Tensor, "n h"]) -> Tensor:
    """Turn each pair of neighbouring channels by the angle of its position."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


class ConvPositionEmbedding(nn.Module):
    """Position from context: two grouped convolutions over 31 frames; padding never leaks into real frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        convolutions = [nn.Conv1d(dim, dim, 31, groups=16, padding=15) for _ in range(2)]
        self.conv1d = nn.Sequential(convolutions[0], nn.Mish(), convolutions[1], nn.Mish())

    def forward(self, x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n c"]:
        x = silence(x, mask).transpose(1, 2)
        for layer in self.conv1d:
            x = layer(x)
            if isinstance(layer, nn.Conv1d) and mask is not None:
                x = x.masked_fill(~mask[:, None], 0.0)
        return x.transpose(1, 2)


class GlobalResponseNorm(nn.Module):
    """ConvNeXt-V2's competition between channels, by their energy over an item's own frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n c"]:
        energy = silence(x, mask).norm(dim=1, keepdim=True)
        return self.gamma * (x * (energy / (energy.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + x


class ConvNeXtV2Block(nn.Module):
    """Depthwise convolution over 7 positions, then a gated perceptron per position, added to its input."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, inner_dim)
        self.grn = GlobalResponseNorm(inner_dim)
        self.pwconv2 = nn.Linear(inner_dim, dim)

    def forward(self, x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n c"]:
        mixed = self.norm(self.dwconv(silence(x, mask).transpose(1, 2)).transpose(1, 2))
        return x + self.pwconv2(self.grn(F.gelu(self.pwconv1(mixed)), mask))


class AdaLayerNorm(nn.Module):
    """Layer norm whose shift, scale and gates come from the time embedding: one chunk of `linear` each."""

    def __init__(self, dim: int, chunks: int) -> None:
        super().__init__()
        self.chunks = chunks
        self.linear = nn.Linear(dim, dim * chunks)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)

    def forward(self, time: Float[Tensor, "b c"]) -> tuple[Float[Tensor, "b 1 c"], ...]:
        return self.linear(F.silu(time))[:, None].chunk(self.chunks, dim=-1)


class FeedForward(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, dim: int, mult: int, dropout: float) -> None:
        super().__init__()
        expand = nn.Sequential(nn.Linear(dim, dim * mult), nn.GELU(approximate="tanh"))
        self.ff = nn.Sequential(expand, nn.Dropout(dropout), nn.Linear(dim * mult, dim))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        return self.ff(x)


class Attention(nn.Module):
    """Self-attention with rotary positions on every head."""

    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * dim_head
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, dim), nn.Dropout(dropout)])

    def forward(
        self, x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None, rope: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "b n c"]:
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        keys = None if mask is None else mask[:, None, None]  # broadcast: the fast kernels take it
        out = F.scaled_dot_product_attention(rotate(q, *rope), rotate(k, *rope), v, attn_mask=keys)
        for layer in self.to_out:
            out = layer(out if out.ndim == 3 else out.transpose(1, 2).flatten(2))
        return silence(out, mask)


def silence(x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n c"]:
    """Zeros on padding frames."""
    return x if mask is None else x.masked_fill(~mask[..., None], 0.0)
