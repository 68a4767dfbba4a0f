"""The metrics of a stage-2 run -> one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from f5_tts.model.checkpoint import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEYS = ("update", "reward/mean", "reward/digits_wer.acc", "reward/voice_sim.sim", "loss/kl")
DPI = 130
DOTS, LINE, MARK = "#9ecae1", "#1f5f99", "#d95f02"  # single updates, their smoothed course, held-out values


def draw_run(
    metrics: Sequence[dict[str, float]],
    path: str | Path,
    *,
    algorithm: str,
    held_out: tuple[float, float] | None = None,
) -> None:
    """A PNG of reward, error rate, similarity and KL over updates.

    Args:
        metrics: a row per update with at least `KEYS`; of rows for the same update (a run taken up again) the last counts.
        algorithm: as the title names it.
        held_out: error rates on held-out items before and after the run, drawn at the edges of the error panel.
    """
    columns = as_columns(metrics)
    figure = new_figure()
    axes = figure.subplots(2, 2, sharex=True).ravel()
    panels = {
        "mean reward of a rollout": columns["reward/mean"],
        "error rate of rollouts": 1 - columns["reward/digits_wer.acc"],
        "similarity to the prompt's voice": columns["reward/voice_sim.sim"],
        "KL to the stage-1 model (nats)": columns["loss/kl"],
    }
    for axis, (label, values) in zip(axes, panels.items(), strict=True):
        draw_course(axis, columns["update"], values, label)
    if held_out:
        mark_held_out(axes[1], columns["update"], held_out)
    for axis in axes[2:]:
        axis.set_xlabel("update")
    figure.suptitle(f"{algorithm}, {len(columns['update'])} updates")
    replace_file(Path(path), lambda part: figure.savefig(part, format="png"))


def as_columns(metrics: Sequence[dict[str, float]]) -> dict[str, NDArray[np.float64]]:
    if not metrics:
        raise ValueError("the picture of a run needs the metrics of at least one update, found none")
    for row in metrics:
        if missing := [key for key in KEYS if key not in row]:
            raise ValueError(f"metrics of update {row.get('update', '(unnamed)')} lack {missing}; found {sorted(row)}")
    last = {row["update"]: row for row in metrics}
    return {key: np.array([last[update][key] for update in sorted(last)], float) for key in KEYS}


def new_figure() -> Figure:
    """Outside pyplot, so that nothing global is changed and no screen is needed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('the picture needs matplotlib; type: pip install -e ".[mini]"') from error
    figure = Figure(figsize=(9, 6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_course(axis: Axes, updates: NDArray[np.float64], values: NDArray[np.float64], label: str) -> None:
    axis.plot(updates, values, "o", color=DOTS, markersize=3, label="one update")
    axis.plot(updates, smoothed(values), color=LINE, linewidth=1.8, label="smoothed")
    axis.set_title(label, fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.12)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A mean over a centred window of a tenth of the run, at least five updates; at the edges over what there is of it."""
    half = max(2, len(values) // 20)
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def mark_held_out(axis: Axes, updates: NDArray[np.float64], held_out: tuple[float, float]) -> None:
    first, last = updates[0], updates[-1]
    reach = 0.12 * max(last - first, 1)
    before, after = held_out
    axis.hlines(before, first - reach, first + reach, color=MARK, linestyle="--", label="held out, before and after")
    axis.hlines(after, last - reach, last + reach, color=MARK, linestyle="--")
    axis.annotate(f"{before:.2f}", (first - reach, before), (0, 3), textcoords="offset points", color=MARK, fontsize=9)
    axis.annotate(
        f"{after:.2f}", (last + reach, after), (0, 3), textcoords="offset points", color=MARK, fontsize=9, ha="right"
    )
    axis.legend(fontsize=8, frameon=False)
