"""Diffusion transformer (DiT) of F5-TTS: (x_t, prompt, text, time) -> velocity.

The architecture is that of Chen et al., "F5-TTS" (arXiv 2410.06885), v0 and v1 by config. Parameter names match
published weights.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from f5_tts.config.schema import ArchConfig
from f5_tts.model.backbones.kernels import add_product
from f5_tts.model.backbones.layers import AdaLayerNorm, Attention, Backbone, FeedForward
from f5_tts.model.heads import velocity_heads
from f5_tts.model.keywords import takes_keywords


class DiTBlock(nn.Module):
    """Attention, then feed-forward, each normalized, scaled and gated by the time embedding."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__()
        self.attn_norm = AdaLayerNorm(arch.dim, chunks=6)
        self.attn = Attention(arch)
        self.ff = FeedForward(arch)

    def forward(self, x: Tensor, time: Tensor, mask: Bool[Tensor, "b n"] | None, rotations: Tensor) -> Tensor:
        """Compute the block's output; `rotations` are those of `RotaryEmbedding`."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.attn_norm(time)
        norm = self.attn_norm.norm
        x = add_product(x, gate, self.attn(add_product(shift, norm(x), 1 + scale), mask, rotations))
        return add_product(x, ff_gate, self.ff(add_product(ff_shift, norm(x), 1 + ff_scale)))


class DiT(Backbone):
    """Diffusion transformer: velocity at (x_t, t) given prompt frames and text; every norm is conditioned on time."""

    @takes_keywords
    def __init__(self, arch: ArchConfig, mel_dim: int, num_tokens: int, *, gaussian: bool = False) -> None:
        super().__init__(arch, mel_dim, num_tokens)
        self.transformer_blocks = nn.ModuleList(DiTBlock(arch) for _ in range(arch.depth))
        self.long_skip_connection = nn.Linear(arch.dim * 2, arch.dim, bias=False) if arch.long_skip_connection else None
        self.norm_out = AdaLayerNorm(arch.dim, chunks=2)
        self.proj_out, self.proj_out_ln_sig = velocity_heads(arch.dim, mel_dim, gaussian)
        self.init_adaln_zero()

    def init_adaln_zero(self) -> None:
        """Initialize every block as the identity and the velocity at zero (adaLN-zero, Peebles & Xie 2023)."""
        for norm in [*(block.attn_norm for block in self.transformer_blocks), self.norm_out]:
            nn.init.zeros_(norm.linear.weight)
            nn.init.zeros_(norm.linear.bias)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def run_blocks(self, h: Tensor, condition: Tensor, mask: Bool[Tensor, "b n"] | None) -> Tensor:
        """Run all blocks and the final norm; the long skip joins the first block's input to the last block's output."""
        first = h
        rotations = self.rotary_embed(h.shape[1])
        for block in self.transformer_blocks:
            h = self.run_block(block, h, condition, mask, rotations)
        if self.long_skip_connection is not None:
            h = self.long_skip_connection(torch.cat([h, first], dim=-1))
        scale, shift = self.norm_out(condition)
        return add_product(shift, self.norm_out.norm(h), 1 + scale)
