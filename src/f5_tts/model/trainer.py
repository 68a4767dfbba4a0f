"""Place of a module of F5-TTS that is not offered here: importing a name from it says what to use."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(
        f"{__name__}.{name} of F5-TTS is not offered here: "
        "f5-tts train and f5-tts train-rl train; docs/compatibility.md lists what is"
    )
