"""Flat U-Net transformer of E2-TTS: (x_t, prompt, text, time) -> velocity.

The architecture is that of Eskimez et al., "E2 TTS" (arXiv 2406.18009). Parameter names match published weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn

from f5_tts.config.schema import ArchConfig
from f5_tts.model.backbones.layers import Attention, Backbone, FeedForward
from f5_tts.model.heads import velocity_heads
from f5_tts.model.keywords import takes_keywords


class ScaledNorm(nn.Module):
    """RMS norm: vectors scaled to length sqrt(dim), times a learned gain (Zhang & Sennrich 2019)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * self.g


class UNetBlock(nn.ModuleList):
    """Attention, then feed-forward, each normalized; in the second half a skip connection is added first.

    Published weights number the parts: 0 skip, 1 norm, 2 attention, 3 norm, 4 feed-forward.
    """

    def __init__(self, arch: ArchConfig, concat_skips: bool) -> None:
        skip = nn.Linear(arch.dim * 2, arch.dim, bias=False) if concat_skips else nn.Identity()
        norms = (ScaledNorm(arch.dim) for _ in range(2))
        super().__init__([skip, next(norms), Attention(arch), next(norms), FeedForward(arch)])

    def forward(self, x: Tensor, skip: Tensor | None, mask: Bool[Tensor, "b n"] | None, rotations: Tensor) -> Tensor:
        """Compute the block's output; `skip` is the mirrored block's input, `rotations` those of `RotaryEmbedding`."""
        join, attn_norm, attn, ff_norm, ff = self
        if skip is not None:
            x = x + skip if isinstance(join, nn.Identity) else join(torch.cat([x, skip], dim=-1))
        x = x + attn(attn_norm(x), mask, rotations)
        return x + ff(ff_norm(x))


class UNetT(Backbone):
    """Flat U-Net transformer: velocity at (x_t, t) given prompt frames and text; time is an extra first frame."""

    @takes_keywords
    def __init__(self, arch: ArchConfig, mel_dim: int, num_tokens: int, *, gaussian: bool = False) -> None:
        super().__init__(arch, mel_dim, num_tokens)
        self.middle = arch.depth // 2
        concat_skips = arch.skip_connect_type == "concat"
        self.layers = nn.ModuleList(UNetBlock(arch, concat_skips and i >= self.middle) for i in range(arch.depth))
        self.has_skips = arch.skip_connect_type != "none"
        self.norm_out = ScaledNorm(arch.dim)
        self.proj_out, self.proj_out_ln_sig = velocity_heads(arch.dim, mel_dim, gaussian)

    def run_blocks(self, h: Tensor, condition: Tensor, mask: Bool[Tensor, "b n"] | None) -> Tensor:
        """Run all blocks and the final norm, with time as an extra first frame that is removed afterwards.

        Each block of the second half also gets the input of its mirrored block in the first half.
        """
        h = torch.cat([condition[:, None], h], dim=1)
        mask = None if mask is None else F.pad(mask, (1, 0), value=True)
        rotations = self.rotary_embed(h.shape[1])
        skips: list[Tensor] = []
        for index, block in enumerate(self.layers):
            if index < self.middle:
                skips.append(h)
            h = self.run_block(
                block, h, skips.pop() if index >= self.middle and self.has_skips else None, mask, rotations
            )
        return self.norm_out(h)[:, 1:]
