from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.rewards.sensevoice import make_hearing_directory
from torch import Tensor

from f5_tts.data.audio import load_audio

SPEECH = Path(__file__).parent / "speech"


@pytest.fixture(scope="session")
def spoken() -> Callable[[str], Tensor]:
    """Return a function that loads a clip of `speech/` by name ("low_314") at 16 kHz."""
    return lambda name: load_audio(SPEECH / f"{name}.flac", 16_000)


@pytest.fixture(scope="session")
def hearing_directory(states_around_import, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory of a model that recognizes tones."""
    return make_hearing_directory(tmp_path_factory.mktemp("funasr") / "SenseVoiceSmall")
