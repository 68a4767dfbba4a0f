"""Place of a module of F5-TTS that is not offered here: importing a name from it says what to use."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(
        f"{__name__}.{name} of F5-TTS is not offered here: "
        "f5-tts prepare makes data sets, f5_tts.data reads them; docs/compatibility.md lists what is"
    )
