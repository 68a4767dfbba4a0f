from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from f5_tts.data.audio import load_audio

SPEECH = Path(__file__).parent / "speech"


@pytest.fixture(scope="session")
def spoken() -> Callable[[str], Tensor]:
    """A clip of `speech/` at 16 kHz, by name ("low_314")."""
    return lambda name: load_audio(SPEECH / f"{name}.flac", 16_000)
