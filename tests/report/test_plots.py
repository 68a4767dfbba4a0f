from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from f5_tts.report.plots import column, draw_runs, error_rate_name, in_deviations, smoothed


def row(update: int, reward: float = 1.5) -> dict[str, float]:
    return {"update": update, "reward/mean": reward, "loss/kl": 0.01 * update}


def validation(update: int, error_rate: float) -> dict[str, float]:
    return {"update": update, "eval/wer": error_rate, "eval/sim": 0.6}


def run(updates: int) -> list[dict[str, float]]:
    rows = [row(update) for update in range(1, updates + 1)]
    return [validation(0, 0.5), *rows[:-1], rows[-1] | validation(updates, 0.4)]


def test_runs_of_different_length_become_one_png_of_nine_by_six_inches_at_130_dots(tmp_path: Path):
    draw_runs({"nft": run(18), "draft": run(30)}, tmp_path / "new" / "run.png")
    assert image.imread(tmp_path / "new" / "run.png").shape[:2] == (6 * 130, 9 * 130)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["run.png"]


def test_a_run_of_one_update_without_validation_can_be_drawn(tmp_path: Path):
    draw_runs({"nft": [row(1)]}, tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 0


def test_of_an_update_done_twice_the_last_counts():
    updates, values = column([row(1), row(2, reward=9.0), row(2, reward=2.0), row(3)], "reward/mean", "nft")
    assert updates.tolist() == [1, 2, 3]
    assert values.tolist() == [1.5, 2.0, 1.5]


def test_a_validation_before_the_run_belongs_to_the_curve_of_validations_alone():
    assert column(run(30), "eval/wer", "nft")[0].tolist() == [0, 30]
    assert column(run(30), "eval/wer", "nft")[1].tolist() == [0.5, 0.4]
    assert column(run(30), "loss/kl", "nft")[0].tolist() == list(range(1, 31))


def test_the_error_rate_is_that_of_the_first_recognizer_of_the_validations():
    rows = [row(1), {**row(2), "asr/wer": 0.1, "forgot/eval/wer": 0.9, "funasr/wer": 0.2, "judge/wer": 0.3}]
    assert error_rate_name({"nft": rows}) == "funasr/wer"
    assert column([{"update": 0, "funasr/wer": 0.2}, row(1)], "funasr/wer", "nft")[1].tolist() == [0.2]
    assert error_rate_name({"nft": [row(1)]}) == "eval/wer"


def test_a_number_that_is_not_finite_leaves_a_gap():
    _, values = column([row(1), {**row(2), "loss/kl": None}], "loss/kl", "nft")
    assert np.isnan(values).tolist() == [False, True]


def test_the_smooth_line_is_a_centred_mean_of_what_there_is():
    assert smoothed(np.array([0.0, 3.0, 6.0, 3.0, 0.0])).tolist() == [3.0, 3.0, 2.4, 3.0, 3.0]
    constant = np.full(60, 0.25)
    assert smoothed(constant).tolist() == constant.tolist()


def test_rewards_of_any_unit_start_near_zero_and_vary_by_one():
    """The deviation of 0, 3, 6, 3, 0 is sqrt(5.04), and their smooth line starts at 3."""
    scaled = in_deviations(100 * np.array([0.0, 3.0, 6.0, 3.0, 0.0]) - 7)
    assert scaled.tolist() == pytest.approx(((np.array([0.0, 3.0, 6.0, 3.0, 0.0]) - 3) / 5.04**0.5).tolist())
    assert in_deviations(np.full(3, 2.0)).tolist() == [0, 0, 0]


def test_metrics_that_lack_a_key_are_named_with_their_run_and_update(tmp_path: Path):
    broken = {key: value for key, value in row(7).items() if key != "loss/kl"}
    with pytest.raises(
        ValueError, match=r"metrics of update 7 of nft lack 'loss/kl'; found \['reward/mean', 'update'\]"
    ):
        draw_runs({"nft": [row(6), broken]}, tmp_path / "run.png")
    with pytest.raises(ValueError, match="the plot of nft needs the metrics of at least one update, found none"):
        draw_runs({"nft": [validation(0, 0.5)]}, tmp_path / "run.png")
    with pytest.raises(ValueError, match="colors for 4 runs, found 5"):
        draw_runs({str(index): run(2) for index in range(5)}, tmp_path / "run.png")
