"""Plot of the metrics of stage-2 runs."""

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
Curves = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]  # updates and values, by run
UPDATED = {
    "reward/mean": "mean reward, change in standard deviations",
    "loss/kl": "distance to the reference (loss/kl)",
}
NOT_ON_DEV = ("asr/", "forgot/")  # beginnings of the names of error rates that no validation on dev measured
COLORS = ("#1f5f99", "#d95f02", "#4d8c57", "#8a5a9e")  # of the runs, in their order


def draw_runs(runs: Mapping[str, Sequence[Metrics]], path: str | Path) -> None:
    """Plot reward, error rate, similarity and KL (nft, draft: squared velocity distance) over updates as a PNG.

    Rewards of different algorithms have different units: a run's reward is shown relative to its first updates, in
    units of its standard deviation over the run. Error rate and similarity are those of validations, raw weights.

    Args:
        runs: by title, at most as many as `COLORS`; the metrics of each, one row per update. Of several rows for one
            update (a resumed run) the last counts. Row 0 is a validation before the run.
        path: of the PNG file.

    Raises:
        ValueError: there are too many runs, a run has no update, or an update lacks a metric.
    """
    if len(runs) > len(COLORS):
        raise ValueError(f"the plot has colors for {len(COLORS)} runs, found {len(runs)}")
    figure = new_figure(9.0, 6.0)
    axes = figure.subplots(2, 2, sharex=True).ravel()
    rewards = {
        name: (updates, in_deviations(values)) for name, (updates, values) in columns(runs, "reward/mean").items()
    }
    draw_smoothed(axes[0], rewards, UPDATED["reward/mean"])
    draw_validations(axes[1], columns(runs, error_rate_name(runs)), "error rate on dev")
    draw_validations(axes[2], columns(runs, "eval/sim"), "similarity to the prompt's voice on dev")
    draw_smoothed(axes[3], columns(runs, "loss/kl"), UPDATED["loss/kl"])
    axes[0].legend(fontsize=8, frameon=False)
    for axis in axes[2:]:
        axis.set_xlabel("update")
    write_atomically(Path(path), lambda tmp_path: figure.savefig(tmp_path, format="png"))


def error_rate_name(runs: Mapping[str, Sequence[Metrics]]) -> str:
    """Return the name of the error rate of the first recognizer that a validation of these runs asked.

    It counts words, and characters of scripts without spaces.
    """
    names = (name for rows in runs.values() for row in rows for name in row)
    return next((name for name in names if name.endswith("/wer") and not name.startswith(NOT_ON_DEV)), "eval/wer")


def columns(runs: Mapping[str, Sequence[Metrics]], key: str) -> Curves:
    """Return updates and values of a metric by run."""
    return {name: column(rows, key, name) for name, rows in runs.items()}


def column(rows: Sequence[Metrics], key: str, run: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return updates, sorted, and values of a metric; NaN where it was not finite.

    Raises ValueError if a run has no update, or an update lacks a metric that each one has.
    """
    last = {row["update"]: row for row in rows}
    trained = [row for update, row in last.items() if update > 0]
    if not trained:
        raise ValueError(f"the plot of {run} needs the metrics of at least one update, found none")
    for row in trained:
        if key in UPDATED and key not in row:
            raise ValueError(f"metrics of update {row['update']} of {run} lack {key!r}; found {sorted(row)}")
    kept = [update for update in sorted(last) if key in last[update] and (update > 0 or key not in UPDATED)]
    return np.array(kept, float), np.array([last[update][key] for update in kept], float)


def in_deviations(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the first value of the smoothed curve, and divide by the standard deviation of the values."""
    spread = np.nanstd(values)
    return (values - smoothed(values)[0]) / (spread if spread > 0 else 1.0)


def draw_smoothed(axis: Axes, curves: Curves, title: str) -> None:
    """Plot the values of single updates and their moving average."""
    for color, (name, (updates, values)) in zip(COLORS, curves.items(), strict=False):
        axis.plot(updates, values, "o", color=color, markersize=2, alpha=0.25)
        axis.plot(updates, smoothed(values), color=color, linewidth=1.8, label=name)
    decorate(axis, title)


def draw_validations(axis: Axes, curves: Curves, title: str) -> None:
    """Plot the values of validations, connected by lines."""
    for color, (name, (updates, values)) in zip(COLORS, curves.items(), strict=False):
        axis.plot(updates, values, "o-", color=color, markersize=4, linewidth=1.8, label=name)
    decorate(axis, title)


def decorate(axis: Axes, title: str) -> None:
    """Set title, grid and margins."""
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.12)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute a centered moving average over a tenth of the run, at least five updates.

    At the edges the window is truncated.
    """
    half = max(2, len(values) // 20)
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])
