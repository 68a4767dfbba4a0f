"""Small building blocks of tests: mel settings, and tiny networks with the settings of a config."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ArchConfig, MelSpecConfig, TrainConfig

PUBLISHED_MEL = MelSpecConfig(
    target_sample_rate=24000,
    n_mel_channels=100,
    hop_length=256,
    win_length=1024,
    n_fft=1024,
    mel_spec_type="vocos",
)
MINI_MEL = replace(PUBLISHED_MEL, target_sample_rate=16000, hop_length=320)
BIGVGAN_MEL = replace(PUBLISHED_MEL, mel_spec_type="bigvgan")
SIZES: dict[str, Any] = {
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "dim_head": 16,
    "ff_mult": 2,
    "text_dim": 16,
    "conv_layers": 1,
    "dropout": 0.0,
}


def tiny_arch(**changes: Any) -> ArchConfig:
    """Return the architecture of F5TTS_v1_Base at a tiny size."""
    return replace(published_arch(), **{**SIZES, **changes})


@cache
def published_arch() -> ArchConfig:
    return compose_config("F5TTS_v1_Base", [], TrainConfig).model.arch
