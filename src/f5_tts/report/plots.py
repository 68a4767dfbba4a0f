"""Plot of the metrics of a stage-2 run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from f5_tts.files import write_atomically
from f5_tts.plotting import new_figure

if TYPE_CHECKING:
    from f5_tts.plotting import Axes

Metrics = Mapping[str, Any]  # numbers; None where a value was not finite
KEYS = ("update", "reward/mean", "reward/digits_wer.acc", "reward/voice_sim.sim", "loss/kl")
DOTS, LINE, MARK = "#9ecae1", "#1f5f99", "#d95f02"  # single updates, moving average, held-out values


def draw_run(
    metrics: Sequence[Metrics],
    path: str | Path,
    *,
    algorithm: str,
    held_out: tuple[float, float] | None = None,
) -> None:
    """Plot reward, error rate, similarity and KL (nft: squared velocity distance) over updates as a PNG.

    Args:
        metrics: one row per update with at least `KEYS`. Of several rows for one update (a resumed run) the last
            counts. Row 0, a validation before the run, is ignored.
        path: of the PNG file.
        algorithm: name in the title.
        held_out: error rates on held-out items before and after the run, drawn at the edges of the error panel.
    """
    columns = as_columns(metrics)
    figure = new_figure(9.0, 6.0)
    axes = figure.subplots(2, 2, sharex=True).ravel()
    panels = {
        "mean reward of a rollout": columns["reward/mean"],
        "error rate of rollouts": 1 - columns["reward/digits_wer.acc"],
        "similarity to the prompt's voice": columns["reward/voice_sim.sim"],
        "distance to the reference (loss/kl)": columns["loss/kl"],
    }
    for axis, (label, values) in zip(axes, panels.items(), strict=True):
        draw_course(axis, columns["update"], values, label)
    axes[0].legend(fontsize=8, frameon=False)
    if held_out:
        mark_held_out(axes[1], columns["update"], held_out)
    for axis in axes[2:]:
        axis.set_xlabel("update")
    figure.suptitle(f"{algorithm}, {len(columns['update'])} updates")
    write_atomically(Path(path), lambda tmp_path: figure.savefig(tmp_path, format="png"))


def as_columns(metrics: Sequence[Metrics]) -> dict[str, NDArray[np.float64]]:
    """Convert rows to columns of `KEYS`, sorted by update; raise ValueError if a key or every row is missing."""
    metrics = [row for row in metrics if row.get("update") != 0]
    if not metrics:
        raise ValueError("the plot of a run needs the metrics of at least one update, found none")
    for row in metrics:
        if missing := [key for key in KEYS if key not in row]:
            raise ValueError(f"metrics of update {row.get('update', '(unnamed)')} lack {missing}; found {sorted(row)}")
    last = {row["update"]: row for row in metrics}
    return {key: np.array([last[update][key] for update in sorted(last)], float) for key in KEYS}


def draw_course(axis: Axes, updates: NDArray[np.float64], values: NDArray[np.float64], label: str) -> None:
    """Plot the values of single updates and their moving average."""
    axis.plot(updates, values, "o", color=DOTS, markersize=3, label="one update")
    axis.plot(updates, smoothed(values), color=LINE, linewidth=1.8, label="smoothed")
    axis.set_title(label, fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.12)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute a centered moving average over a tenth of the run, at least five updates.

    At the edges the window is truncated.
    """
    half = max(2, len(values) // 20)
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def mark_held_out(axis: Axes, updates: NDArray[np.float64], held_out: tuple[float, float]) -> None:
    """Draw the held-out values as dashes before the first update and after the last."""
    width = 0.1 * max(updates[-1] - updates[0], 1)
    for start, value in zip((updates[0] - width, updates[-1]), held_out, strict=True):
        axis.hlines(value, start, start + width, color=MARK, linestyle="--", linewidth=1.8)
        position = (start + width / 2, value)
        axis.annotate(
            f"{value:.2f}",
            position,
            (0, 4),
            textcoords="offset points",
            color=MARK,
            fontsize=9,
            horizontalalignment="center",
        )
    axis.plot([], [], "--", color=MARK, label="held out, before and after")
    axis.legend(fontsize=8, frameon=False)
