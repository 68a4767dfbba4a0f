from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from f5_tts.report.plots import as_columns, draw_run, smoothed


def row(update: int, reward: float = 1.5) -> dict[str, float]:
    return {
        "update": update,
        "reward/mean": reward,
        "reward/digits_wer.acc": 0.6,
        "reward/voice_sim.sim": 0.7,
        "loss/kl": 0.01 * update,
    }


def test_a_run_becomes_one_png_of_nine_by_six_inches_at_130_dots(tmp_path: Path):
    draw_run([row(u) for u in range(1, 31)], tmp_path / "new" / "run.png", algorithm="GRPO", held_out=(0.4, 0.3))
    assert image.imread(tmp_path / "new" / "run.png").shape[:2] == (6 * 130, 9 * 130)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["run.png"]


def test_a_run_of_one_update_can_be_drawn(tmp_path: Path):
    draw_run([row(1)], tmp_path / "run.png", algorithm="GRPO", held_out=(0.4, 0.3))
    assert (tmp_path / "run.png").stat().st_size > 0


def test_of_an_update_done_twice_the_last_counts():
    columns = as_columns([row(1), row(2, reward=9.0), row(2, reward=2.0), row(3)])
    assert columns["update"].tolist() == [1, 2, 3]
    assert columns["reward/mean"].tolist() == [1.5, 2.0, 1.5]


def test_the_smooth_line_is_a_centred_mean_of_what_there_is():
    assert smoothed(np.array([0.0, 3.0, 6.0, 3.0, 0.0])).tolist() == [3.0, 3.0, 2.4, 3.0, 3.0]
    constant = np.full(60, 0.25)
    assert smoothed(constant).tolist() == constant.tolist()


def test_metrics_that_lack_a_key_are_named_with_their_update(tmp_path: Path):
    broken = {key: value for key, value in row(7).items() if key != "loss/kl"}
    with pytest.raises(ValueError, match=r"metrics of update 7 lack \['loss/kl'\]"):
        draw_run([row(6), broken], tmp_path / "run.png", algorithm="GRPO")
    with pytest.raises(ValueError, match="at least one update, found none"):
        draw_run([], tmp_path / "run.png", algorithm="GRPO")


def test_a_validation_before_the_run_is_not_drawn_and_a_number_that_is_not_finite_leaves_a_gap():
    columns = as_columns([{"update": 0, "eval/wer": 0.5}, row(1), {**row(2), "loss/kl": None}])
    assert columns["update"].tolist() == [1, 2]
    assert np.isnan(columns["loss/kl"]).tolist() == [False, True]
