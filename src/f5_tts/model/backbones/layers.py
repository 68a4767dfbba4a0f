"""Layers shared by the backbones; parameter names and shapes are those of the published F5-TTS checkpoints.

`mask` is always True on valid frames, and None if no frame of the batch is padding. With a mask, each layer computes
for an item the same as without the other items of its batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from f5_tts.config.schema import ArchConfig
from f5_tts.model.backbones.kernels import GELU, Dropout, Mish, attention
from f5_tts.model.heads import Velocity


class Backbone(nn.Module):
    """Base class of the backbones: noisy mel, prompt, text and time in, velocity of the flow out.

    A subclass adds its blocks and `run_blocks`, which runs them. With `gaussian` a second output layer gives the log
    standard deviation of each velocity entry.
    """

    proj_out: nn.Linear
    proj_out_ln_sig: nn.Linear | None

    def __init__(self, arch: ArchConfig, mel_dim: int, num_tokens: int) -> None:
        super().__init__()
        self.checkpoint_activations = arch.checkpoint_activations
        text_dim = mel_dim if arch.text_dim is None else arch.text_dim
        self.time_embed = TimeEmbedding(arch.dim)
        self.text_embed = TextEmbedding(arch, text_dim, num_tokens)
        self.input_embed = InputEmbedding(mel_dim, text_dim, arch.dim)
        self.rotary_embed = RotaryEmbedding(arch.dim_head)

    def run_blocks(
        self, h: Float[Tensor, "b n c"], condition: Float[Tensor, "b c"], mask: Bool[Tensor, "b n"] | None
    ) -> Float[Tensor, "b n c"]:
        """Run the blocks and the norm after them."""
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        cond: Float[Tensor, "b n d"],
        text: Int[Tensor, "b nt"],
        time: Float[Tensor, " b"],
        mask: Bool[Tensor, "b n"] | None,
        drop_audio: Bool[Tensor, " b"],
        drop_text: Bool[Tensor, " b"],
        text_embedding: Float[Tensor, "b n e"] | None = None,
    ) -> Velocity:
        """Compute the velocity; `cond` is the prompt's mel, and zeros elsewhere.

        `drop_audio` and `drop_text` remove an item's conditions. `text_embedding` replaces the text if it was embedded
        before.
        """
        if text_embedding is None:
            length = x.shape[1]
            lens = x.new_full((len(x),), length, dtype=torch.long) if mask is None else mask.sum(1)
            text_embedding = self.text_embed(text, lens, length, drop_text)
        dtype = next(self.parameters()).dtype  # half precision, where a program chose it
        # no name holds the masked prompt, which would keep it in memory while the blocks run
        h = self.input_embed(
            x.to(dtype), cond.masked_fill(drop_audio[:, None, None], 0.0).to(dtype), text_embedding, mask
        )
        h = self.run_blocks(h, self.time_embed(time), mask)
        return Velocity(
            self.proj_out(h), None if self.proj_out_ln_sig is None else self.proj_out_ln_sig(h), text_embedding
        )

    def run_block(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        """Run one block; with checkpoint_activations its activations are recomputed in the backward pass."""
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


class TimeEmbedding(nn.Module):
    """Embedding of flow time in [0, 1]: sinusoids of 1000 t, then a two-layer perceptron."""

    FREQUENCIES = 256

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(self.FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        """Compute the conditioning vector of each time."""
        half = self.FREQUENCIES // 2
        rates = torch.exp(torch.arange(half, device=time.device) * (-math.log(10000) / (half - 1)))
        angles = 1000 * time[:, None] * rates
        return self.time_mlp(torch.cat([angles.sin(), angles.cos()], dim=-1).to(next(self.parameters()).dtype))


class TextEmbedding(nn.Module):
    """Embedding of token ids, one vector per mel frame; filler tokens follow each item's text up to its own length.

    Without convolutions no positions are added, and filler frames keep the embedding of the filler (E2-TTS).
    """

    def __init__(self, arch: ArchConfig, dim: int, num_tokens: int) -> None:
        super().__init__()
        self.mask_padding = arch.text_mask_padding and arch.conv_layers > 0
        self.average_upsampling = arch.text_embedding_average_upsampling
        self.text_embed = nn.Embedding(num_tokens + 1, dim)  # row 0 is the filler
        self.text_blocks = nn.ModuleList(ConvNeXtV2Block(dim, dim * 2) for _ in range(arch.conv_layers))

    def forward(
        self, text: Int[Tensor, "b nt"], lens: Int[Tensor, " b"], length: int, drop: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b n c"]:
        """Embed texts that are padded with -1; a text is cut to its item's frames.

        `drop` replaces an item's tokens by filler without changing their number.
        """
        tokens = nn.functional.pad(text[:, :length] + 1, (0, max(0, length - text.shape[1])))
        frames = torch.arange(length, device=text.device) < lens[:, None]
        tokens = tokens.masked_fill(~frames, 0)
        has_token = tokens > 0
        text_mask = has_token if self.mask_padding else None
        x = self.text_embed(tokens.masked_fill(drop[:, None], 0))
        if self.text_blocks:
            x = mask_frames(x + sinusoidal_positions(length, x.shape[-1], x.device).to(x.dtype), text_mask)
        for block in self.text_blocks:
            x = mask_frames(block(x, frames), text_mask)
        return upsample_text(x, has_token.sum(1), lens) if self.average_upsampling else mask_frames(x, frames)


def sinusoidal_positions(length: int, dim: int, device: torch.device) -> Float[Tensor, "n c"]:
    """Compute cosines, then sines, of position times the frequencies 10000^(-2i/dim)."""
    rates = 10000.0 ** -(torch.arange(0, dim, 2, device=device).float() / dim)
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def upsample_text(
    x: Float[Tensor, "b n c"], num_tokens: Int[Tensor, " b"], lens: Int[Tensor, " b"]
) -> Float[Tensor, "b n c"]:
    """Repeat each item's tokens evenly over its frames; if they do not divide, the last tokens get one frame more."""
    tokens = num_tokens.clamp(min=1)[:, None]
    repeat, longer = lens[:, None] // tokens, lens[:, None] % tokens
    frame = torch.arange(x.shape[1], device=x.device)[None]
    shorter = tokens - longer
    offset = frame - shorter * repeat  # frames since the first token with one frame more
    index = torch.where(offset < 0, frame // repeat.clamp(min=1), shorter + offset // (repeat + 1))
    upsampled = x.gather(1, index.clamp(0, x.shape[1] - 1)[..., None].expand_as(x))
    return mask_frames(upsampled, (frame < lens[:, None]) & (num_tokens > 0)[:, None])


class InputEmbedding(nn.Module):
    """Projection of noisy mel, prompt mel and text to the transformer's width, plus convolutional positions."""

    def __init__(self, mel_dim: int, text_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(mel_dim * 2 + text_dim, dim)
        self.conv_pos_embed = ConvPositionEmbedding(dim)

    def forward(self, x: Tensor, cond: Tensor, text: Tensor, mask: Bool[Tensor, "b n"] | None) -> Tensor:
        """Compute the transformer's input of each frame."""
        h = self.proj(torch.cat([x, cond, text], dim=-1))
        return self.conv_pos_embed(h, mask) + h


class RotaryEmbedding(nn.Module):
    """Rotary position embedding: the rotation of each pair of neighboring channels at each frame."""

    inv_freq: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, dim, 2).float() / dim))

    def forward(self, length: int) -> Complex[Tensor, "n h"]:
        """Compute the rotations of `length` frames, as complex numbers of modulus one."""
        angles = torch.arange(length, device=self.inv_freq.device)[:, None] * self.inv_freq.float()
        return torch.polar(torch.ones_like(angles), angles)


def apply_rotary(x: Float[Tensor, "b heads n d"], rotations: Complex[Tensor, "n h"]) -> Float[Tensor, "b heads n d"]:
    """Rotate each pair of neighboring channels, as one complex number: a single pass over the data."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotations).flatten(-2).to(x.dtype)


class ConvPositionEmbedding(nn.Module):
    """Positions from context: two grouped convolutions over 31 frames, unaffected by padding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        convolutions = [nn.Conv1d(dim, dim, 31, groups=16, padding=15) for _ in range(2)]
        self.conv1d = nn.Sequential(convolutions[0], Mish(), convolutions[1], Mish())

    def forward(self, x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n c"]:
        """Compute the position embedding, zero on padding frames."""
        x = mask_frames(x, mask)
        for layer in self.conv1d:
            x = mask_frames(conv1d_channels_last(x, layer), mask) if isinstance(layer, nn.Conv1d) else layer(x)
        return x


def conv1d_channels_last(x: Float[Tensor, "b n c"], layer: nn.Conv1d) -> Float[Tensor, "b n c"]:
    """Apply the layer over frames as a 2-D convolution in channels-last memory, which is three times faster."""
    weight = layer.weight[:, :, None].contiguous(memory_format=torch.channels_last)
    padding = (0, int(layer.padding[0]))
    image = x.transpose(1, 2)[:, :, None]
    return F.conv2d(image, weight, layer.bias, padding=padding, groups=layer.groups)[:, :, 0].transpose(1, 2)


class GlobalResponseNorm(nn.Module):
    """Global response normalization of ConvNeXt-V2: channels scaled by their energy over an item's valid frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n c"]:
        """Normalize the channels, with the residual added."""
        energy = mask_frames(x, mask).norm(dim=1, keepdim=True)
        return self.gamma * (x * (energy / (energy.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + x


class ConvNeXtV2Block(nn.Module):
    """ConvNeXt-V2 block: a depthwise convolution over 7 positions and a perceptron per position, with a residual."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, inner_dim)
        self.grn = GlobalResponseNorm(inner_dim)
        self.pwconv2 = nn.Linear(inner_dim, dim)

    def forward(self, x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n c"]:
        """Compute the block's output, with the residual added."""
        mixed = self.norm(self.dwconv(mask_frames(x, mask).transpose(1, 2)).transpose(1, 2))
        return x + self.pwconv2(self.grn(F.gelu(self.pwconv1(mixed)), mask))


class AdaLayerNorm(nn.Module):
    """Adaptive layer norm: shift, scale and gates come from the time embedding, one chunk of `linear` each."""

    def __init__(self, dim: int, chunks: int) -> None:
        super().__init__()
        self.chunks = chunks
        self.linear = nn.Linear(dim, dim * chunks)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)

    def forward(self, time: Float[Tensor, "b c"]) -> tuple[Float[Tensor, "b 1 c"], ...]:
        """Compute the chunks from the time embedding."""
        return self.linear(F.silu(time))[:, None].chunk(self.chunks, dim=-1)


class FeedForward(nn.Module):
    """Feed-forward network: two linear layers around a tanh-approximated GELU."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__()
        inner = arch.dim * arch.ff_mult
        expand = nn.Sequential(nn.Linear(arch.dim, inner), GELU())
        self.ff = nn.Sequential(expand, Dropout(arch.dropout), nn.Linear(inner, arch.dim))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Compute the network's output."""
        return self.ff(x)


class Attention(nn.Module):
    """Self-attention with rotary positions on the first `arch.pe_attn_head` heads, or on all."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__()
        self.heads, self.uses_mask = arch.heads, arch.attn_mask_enabled
        self.rotary_heads = arch.heads if arch.pe_attn_head is None else arch.pe_attn_head
        inner = arch.heads * arch.dim_head
        self.to_q, self.to_k, self.to_v = (nn.Linear(arch.dim, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, arch.dim), Dropout(arch.dropout)])
        has_norm = arch.qk_norm == "rms_norm"
        self.q_norm = nn.RMSNorm(arch.dim_head, eps=1e-6) if has_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(arch.dim_head, eps=1e-6) if has_norm else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None, rotations: Complex[Tensor, "n h"]
    ) -> Float[Tensor, "b n c"]:
        """Compute attention over all frames, or over valid ones if `attn_mask_enabled`; padding becomes zero."""
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        q, k = self.apply_positions(self.q_norm(q), rotations), self.apply_positions(self.k_norm(k), rotations)
        out = attention(q, k, v, mask if self.uses_mask else None)
        for layer in self.to_out:
            out = layer(out if out.ndim == 3 else out.transpose(1, 2).flatten(2))
        return out if mask is None else out.masked_fill_(~mask[..., None], 0.0)

    def apply_positions(
        self, x: Float[Tensor, "b heads n d"], rotations: Complex[Tensor, "n h"]
    ) -> Float[Tensor, "b heads n d"]:
        """Apply the rotations to the heads that have positions."""
        if self.rotary_heads == self.heads:
            return apply_rotary(x, rotations)
        return torch.cat([apply_rotary(x[:, : self.rotary_heads], rotations), x[:, self.rotary_heads :]], dim=1)


def mask_frames(x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n c"]:
    """Set padding frames to zero."""
    return x if mask is None else x.masked_fill(~mask[..., None], 0.0)
