"""Score plot of a reward audit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from f5_tts.files import write_atomically
from f5_tts.plotting import new_figure

DOT, MEAN, BASELINE = "#9ecae1", "#1f5f99", "#d95f02"


def draw_audition(scores: Mapping[str, Mapping[str, Float[Tensor, " b"]]], baseline: str, path: Path) -> None:
    """Plot the scores of all variants as a PNG with one panel per reward.

    Each clip is a dot and each variant a row with its mean. A dotted line marks the mean of the resynthesized copies.

    Args:
        scores: scores by variant and reward.
        copy: name of the variant that the others are compared with.
        path: of the PNG file.
    """
    variants, rewards = list(scores), list(scores[baseline])
    figure = new_figure(1.5 + 3.2 * len(rewards), 0.8 + 0.36 * len(variants))
    panels = figure.subplots(1, len(rewards), sharey=True, squeeze=False)[0]
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(scores[baseline][rewards[0]]))
    for axes, reward in zip(panels, rewards, strict=True):
        for row, variant in enumerate(variants):
            values = scores[variant][reward].numpy()
            axes.plot(values, row + jitter, ".", color=DOT, markersize=4)
            if not np.isnan(values).all():
                axes.vlines(np.nanmean(values), row - 0.3, row + 0.3, color=MEAN, linewidth=2)
        axes.axvline(float(np.nanmean(scores[baseline][reward].numpy())), color=BASELINE, linewidth=1, linestyle=":")
        axes.set_title(reward, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(variants)), variants)
    panels[0].invert_yaxis()
    write_atomically(path, lambda tmp_path: figure.savefig(tmp_path, format="png"))
