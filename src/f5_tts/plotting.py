"""Matplotlib figures outside pyplot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from f5_tts.extras import install_hint

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure

DPI = 130


def new_figure(width: float, height: float) -> Figure:
    """Create a figure of this size in inches, without pyplot: no global state changes and no display is needed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"the plot needs matplotlib; run: {install_hint('matplotlib')}") from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
