"""A waveform -> a WAV file."""

from __future__ import annotations

from pathlib import Path

import soundfile
from jaxtyping import Float
from torch import Tensor

from f5_tts.model.checkpoint import replace_file


def write_wav(path: str | Path, audio: Float[Tensor, " nw"], sample_rate: int) -> None:
    """A 16-bit mono WAV; samples beyond [-1, 1] are clipped."""
    samples = audio.detach().cpu().clamp(-1, 1).numpy()
    replace_file(Path(path), lambda part: soundfile.write(part, samples, sample_rate, subtype="PCM_16", format="WAV"))
