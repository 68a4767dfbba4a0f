"""The diffusion transformer of F5-TTS v1: (x_t, prompt, text, time) -> velocity.

Architecture of Chen et al., "F5-TTS" (arXiv 2410.06885) with the v1 text masking. Names match published weights.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from f5_tts.model.backbones.layers import (
    AdaLayerNorm,
    Attention,
    ConvNeXtV2Block,
    ConvPositionEmbedding,
    FeedForward,
    RotaryEmbedding,
    TimeEmbedding,
    silence,
)
from f5_tts.model.heads import Velocity


class TextEmbedding(nn.Module):
    """Token ids -> one vector per mel frame: each item at its own length, filler (zeros) after its text."""

    def __init__(self, num_tokens: int, dim: int, conv_layers: int, average_upsampling: bool) -> None:
        super().__init__()
        self.average_upsampling = average_upsampling
        self.text_embed = nn.Embedding(num_tokens + 1, dim)  # row 0 is the filler
        self.text_blocks = nn.ModuleList(ConvNeXtV2Block(dim, dim * 2) for _ in range(conv_layers))

    def forward(
        self, text: Int[Tensor, "b nt"], lens: Int[Tensor, " b"], length: int, drop: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b n c"]:
        """`text` is padded with -1 and cut to an item's frames; `drop` blanks an item's words, not their number."""
        tokens = nn.functional.pad(text[:, :length] + 1, (0, max(0, length - text.shape[1])))
        frames = torch.arange(length, device=text.device) < lens[:, None]
        tokens = tokens.masked_fill(~frames, 0)
        spoken = tokens > 0
        x = self.text_embed(tokens.masked_fill(drop[:, None], 0))
        x = silence(x + position_code(length, x.shape[-1], x.device), spoken)
        for block in self.text_blocks:
            x = silence(block(x, frames), spoken)
        return stretch_to_frames(x, spoken.sum(1), lens) if self.average_upsampling else x


def position_code(length: int, dim: int, device: torch.device) -> Float[Tensor, "n c"]:
    """Cosines, then sines, of position times frequencies 10000^(-2i/dim)."""
    rates = 10000.0 ** -(torch.arange(0, dim, 2, device=device).float() / dim)
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def stretch_to_frames(
    x: Float[Tensor, "b n c"], num_tokens: Int[Tensor, " b"], lens: Int[Tensor, " b"]
) -> Float[Tensor, "b n c"]:
    """Repeat each item's tokens evenly over its frames; where they don't divide, the last ones stand once longer."""
    tokens = num_tokens.clamp(min=1)[:, None]
    repeat, longer = lens[:, None] // tokens, lens[:, None] % tokens
    frame = torch.arange(x.shape[1], device=x.device)[None]
    shorter = tokens - longer
    late = frame - shorter * repeat  # frames since the first longer token
    index = torch.where(late < 0, frame // repeat.clamp(min=1), shorter + late // (repeat + 1))
    stretched = x.gather(1, index.clamp(0, x.shape[1] - 1)[..., None].expand_as(x))
    return silence(stretched, (frame < lens[:, None]) & (num_tokens > 0)[:, None])


class InputEmbedding(nn.Module):
    """Noisy mel, prompt mel and text of each frame -> transformer width, with convolutional positions added."""

    def __init__(self, mel_dim: int, text_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(mel_dim * 2 + text_dim, dim)
        self.conv_pos_embed = ConvPositionEmbedding(dim)

    def forward(self, x: Tensor, cond: Tensor, text: Tensor, mask: Bool[Tensor, "b n"] | None) -> Tensor:
        h = self.proj(torch.cat([x, cond, text], dim=-1))
        return self.conv_pos_embed(h, mask) + h


class DiTBlock(nn.Module):
    """Attention, then feed-forward, each normalised, scaled and gated by the time embedding."""

    def __init__(self, dim: int, heads: int, dim_head: int, ff_mult: int, dropout: float) -> None:
        super().__init__()
        self.attn_norm = AdaLayerNorm(dim, chunks=6)
        self.attn = Attention(dim, heads, dim_head, dropout)
        self.ff = FeedForward(dim, ff_mult, dropout)

    def forward(self, x: Tensor, time: Tensor, mask: Bool[Tensor, "b n"] | None, cos: Tensor, sin: Tensor) -> Tensor:
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.attn_norm(time)
        norm = self.attn_norm.norm
        x = x + gate * self.attn(norm(x) * (1 + scale) + shift, mask, (cos, sin))
        return x + ff_gate * self.ff(norm(x) * (1 + ff_scale) + ff_shift)


class DiT(nn.Module):
    """Velocity of the flow at (x_t, t), given prompt frames and text; see `f5_tts.config.ArchConfig` for the sizes.

    With `gaussian` a second output layer gives the log standard deviation of each velocity entry.
    """

    def __init__(
        self,
        *,
        mel_dim: int,
        num_tokens: int,
        dim: int,
        depth: int,
        heads: int,
        dim_head: int,
        ff_mult: int,
        text_dim: int,
        conv_layers: int,
        average_upsampling: bool = False,
        dropout: float = 0.0,
        checkpoint_activations: bool = False,
        gaussian: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.time_embed = TimeEmbedding(dim)
        self.text_embed = TextEmbedding(num_tokens, text_dim, conv_layers, average_upsampling)
        self.input_embed = InputEmbedding(mel_dim, text_dim, dim)
        self.rotary_embed = RotaryEmbedding(dim_head)
        self.transformer_blocks = nn.ModuleList(DiTBlock(dim, heads, dim_head, ff_mult, dropout) for _ in range(depth))
        self.norm_out = AdaLayerNorm(dim, chunks=2)
        self.proj_out = nn.Linear(dim, mel_dim)
        self.proj_out_ln_sig = nn.Linear(dim, mel_dim) if gaussian else None
        self.start_as_identity()

    def start_as_identity(self) -> None:
        """Every block starts as the identity and the velocity at zero (adaLN-zero, Peebles & Xie 2023)."""
        for norm in [*(block.attn_norm for block in self.transformer_blocks), self.norm_out]:
            nn.init.zeros_(norm.linear.weight)
            nn.init.zeros_(norm.linear.bias)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        cond: Float[Tensor, "b n d"],
        text: Int[Tensor, "b nt"],
        time: Float[Tensor, " b"],
        mask: Bool[Tensor, "b n"] | None,
        drop_audio: Bool[Tensor, " b"],
        drop_text: Bool[Tensor, " b"],
    ) -> Velocity:
        """`cond` is the prompt's mel, zeros elsewhere; `drop_audio` and `drop_text` blank an item's conditions."""
        length = x.shape[1]
        lens = x.new_full((len(x),), length, dtype=torch.long) if mask is None else mask.sum(1)
        words = self.text_embed(text, lens, length, drop_text)
        condition = self.time_embed(time)
        h = self.input_embed(x, cond.masked_fill(drop_audio[:, None, None], 0.0), words, mask)
        cos, sin = self.rotary_embed(length)
        for block in self.transformer_blocks:
            if self.checkpoint_activations and torch.is_grad_enabled():
                h = checkpoint(block, h, condition, mask, cos, sin, use_reentrant=False)
            else:
                h = block(h, condition, mask, cos, sin)
        scale, shift = self.norm_out(condition)
        h = self.norm_out.norm(h) * (1 + scale) + shift
        return Velocity(self.proj_out(h), None if self.proj_out_ln_sig is None else self.proj_out_ln_sig(h))
