"""Small networks for tests: the settings of a config with other sizes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from f5_tts.config import ArchConfig, RunConfig, compose_run

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
    """The architecture of F5TTS_v1_Base, tiny."""
    return replace(published_arch(), **{**SIZES, **changes})


@cache
def published_arch() -> ArchConfig:
    return compose_run("F5TTS_v1_Base", [], RunConfig).model.arch
