"""Networks, flow matching, mels, vocoders and checkpoints; names that programs for F5-TTS import are looked up late."""

from importlib import import_module
from typing import Any

PUBLIC = {"CFM": "cfm", "DiT": "backbones.dit", "UNetT": "backbones.unett"}  # name -> its module
ABSENT = {"MMDiT": "backbones.mmdit", "Trainer": "trainer"}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC | ABSENT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{(PUBLIC | ABSENT)[name]}"), name)
