"""What the speech of a program has to be: its format, its duration by the length rule, and equality with ours."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.compat.conftest import BINS, HOP, RATE, RECORDING, SAID

from f5_tts.infer.reference import read_reference

TEXT = "nine four eight, one two three."
TOLERANCE = 1e-4  # between chunks that were synthesized alone and in a batch


def num_frames(text: str = TEXT, speed: float = 1.0) -> int:
    """Compute the frames of a text by hand; the reference ends with a full stop and two spaces."""
    hops = len(read_reference(RECORDING, SAID, RATE, trim="upstream").wave) // HOP
    return int(hops / len(f"{SAID}.  ") * len(text) / (0.3 if len(text) < 10 else speed))


def assert_speech(spoken: tuple[Any, ...], expected: tuple[Any, ...], frames: int | None = None) -> None:
    """Check rate, shape, type and duration, and that the waveform and the log-mel are the expected ones."""
    wave, rate, mel = spoken
    frames = num_frames() if frames is None else frames
    assert rate == RATE
    assert (wave.dtype, wave.shape) == (np.float32, (HOP * (frames - 1),))
    assert (mel.dtype, mel.shape) == (np.float32, (BINS, frames))
    assert wave.std() > 1e-3 and mel.std() > 1e-3
    np.testing.assert_allclose(mel, expected[2], atol=TOLERANCE)
    np.testing.assert_allclose(wave, expected[0], atol=TOLERANCE * max(1.0, np.abs(wave).max()))
