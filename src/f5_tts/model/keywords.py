"""Keyword arguments by which programs for F5-TTS build networks: DiT(dim=1024, depth=22, heads=16, ...)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from f5_tts.config.schema import ArchConfig

DEFAULTS: dict[str, Any] = {
    "depth": 8,
    "heads": 8,
    "dim_head": 64,
    "dropout": 0.1,
    "ff_mult": 4,
    "text_dim": None,
    "text_mask_padding": True,
    "text_embedding_average_upsampling": False,
    "qk_norm": None,
    "conv_layers": 0,
    "pe_attn_head": None,
    "attn_backend": "torch",
    "attn_mask_enabled": False,
    "long_skip_connection": False,
    "skip_connect_type": "concat",
    "checkpoint_activations": False,
}  # public defaults of the networks, which differ from those of the configs


def takes_keywords(construct: Callable[..., None]) -> Callable[..., None]:
    """Let a network's constructor (arch, mel_dim, num_tokens, gaussian) also take public keywords instead of `arch`."""

    @wraps(construct)
    def construct_from_either(
        self: object,
        arch: ArchConfig | None = None,
        mel_dim: int = 100,
        num_tokens: int = 256,
        *,
        gaussian: bool = False,
        text_num_embeds: int | None = None,
        **sizes: Any,
    ) -> None:
        construct(
            self,
            arch_of(type(self).__name__, sizes) if arch is None else arch,
            mel_dim,
            num_tokens if text_num_embeds is None else text_num_embeds,
            gaussian=gaussian,
        )

    return construct_from_either


def arch_of(network: str, sizes: dict[str, Any]) -> ArchConfig:
    """Return the architecture that public keywords describe; raise TypeError without dim and for an unknown one."""
    unknown = sorted(sizes.keys() - DEFAULTS.keys() - {"dim"})
    if unknown or "dim" not in sizes:
        problem = f"has no argument {', '.join(unknown)}" if unknown else "needs the argument dim"
        raise TypeError(f"{network} {problem}; its arguments: mel_dim, text_num_embeds, dim, {', '.join(DEFAULTS)}")
    return ArchConfig(**{**DEFAULTS, **sizes})
