from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.rewards.sensevoice import make_hearing_directory
from torch import Tensor

from f5_tts.data.audio import load_audio
from f5_tts.rewards.asr.preserve_state import preserve_process_state
from f5_tts.rewards.asr.sensevoice import import_funasr

SPEECH = Path(__file__).parent / "speech"


@pytest.fixture(scope="session")
def spoken() -> Callable[[str], Tensor]:
    """Return a function that loads a clip of `speech/` by name ("low_314") at 16 kHz."""
    return lambda name: load_audio(SPEECH / f"{name}.flac", 16_000)


def process_state() -> dict[str, Any]:
    """Collect the process state that a library may change."""
    root = logging.getLogger()
    return {
        "python": random.getstate(),
        "numpy": repr(np.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "logging": (root.level, list(root.handlers), root.disabled),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "path": list(sys.path),
    }


@pytest.fixture(scope="session")
def states_around_import() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the process state before and after the first import of funasr, as the package imports it."""
    before = process_state()
    with preserve_process_state():
        import_funasr()
    return before, process_state()


@pytest.fixture(scope="session")
def hearing_directory(states_around_import, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory of a model that recognizes tones."""
    return make_hearing_directory(tmp_path_factory.mktemp("funasr") / "SenseVoiceSmall")
