"""Picture of a mel spectrogram."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from f5_tts.files import write_atomically
from f5_tts.plotting import new_figure


def save_spectrogram(spectrogram: np.ndarray, path: str | Path) -> None:
    """Draw a log-mel (bins first) into an image file; its ending chooses the format.

    Raises:
        ImportError: matplotlib is not installed.
    """
    path = Path(path)
    figure = new_figure(12.0, 4.0)
    axes = figure.subplots()
    image = axes.imshow(spectrogram, origin="lower", aspect="auto")
    axes.set(xlabel="frame", ylabel="mel bin")
    figure.colorbar(image, ax=axes, label="ln magnitude")
    write_atomically(path, lambda tmp_path: figure.savefig(tmp_path, format=path.suffix.removeprefix(".") or "png"))
