from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.report.folders import updates

from f5_tts.report.charts import Chart
from f5_tts.report.curves import MEANINGS, Alarm, alarms_of, curve_groups, line_of, metric_charts, smoothed
from f5_tts.train.alarms import ALARMS


def charts(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Chart]:
    return {chart.title: chart for group in curve_groups(runs) for chart in group.charts}


def test_judges_rewards_distance_and_health_have_charts_and_rewards_one_per_run():
    found = charts({"nft": updates(6), "draft": updates(9)})
    assert list(found) == [
        "error rate by pocketsphinx",
        "reward, the weighted sum of nft",
        "reward, the weighted sum of draft",
        "distance to the reference",
        "norm of the gradient",
    ]
    assert [line.name for line in found["distance to the reference"].lines] == ["nft", "draft"]
    assert [line.name for line in found["reward, the weighted sum of draft"].lines] == ["draft"]


def test_validations_are_drawn_as_measured_with_their_intervals_from_row_0_on():
    (chart,) = metric_charts({"nft": updates(6)}, ["eval/wer"], {"nft": ["nft"]})
    (line,) = chart.lines
    assert (line.x.tolist(), line.y.tolist(), line.dots) == ([0, 6], [0.5, 0.2], None)
    assert line.spread is not None and line.spread.tolist() == [0.03, 0.04]


def test_rewards_are_a_moving_average_with_the_deviation_of_samples_and_the_single_updates():
    (chart,) = metric_charts({"nft": updates(3)}, ["reward/mean"], {"nft": ["nft"]})
    (line,) = chart.lines
    assert (line.x.tolist(), line.y.tolist()) == ([1, 2, 3], [2, 2, 2])
    assert line.dots is not None and line.dots.tolist() == [1, 2, 3]
    assert line.spread is not None and line.spread.tolist() == [1, 1, 1]


def test_validations_of_earlier_versions_have_no_intervals_and_averaged_weights_no_curve():
    rows = [{"update": 0, "eval/wer": 0.5, "eval/wer_ema": 0.5, "eval/rtf": 1.0}, {"update": 5, "eval/wer": 0.25}]
    found = charts({"nft": rows})
    assert list(found) == ["error rate by pocketsphinx"]
    assert found["error rate by pocketsphinx"].lines[0].y.tolist() == [0.5, 0.25]


def test_of_an_update_done_twice_the_last_counts():
    rows = [{"update": 1, "loss": 1.0}, {"update": 2, "loss": 9.0}, {"update": 2, "loss": 3.0}]
    line = line_of("loss", "nft", 0, rows)
    assert line.dots is not None and line.dots.tolist() == [1, 3]


def test_the_score_of_a_reward_that_is_differentiated_is_a_loss():
    row = {"update": 1, "reward/mean": 1.0, "rewards/sim/mean": 1.0, "rewards/ctc/mean": 2.0, "reward/ctc.loss": 2.0}
    assert {"sim", "loss of ctc (lower is better)"} <= set(charts({"draft": [row]}))


def test_a_run_without_rewards_has_its_loss_and_no_empty_groups():
    assert list(charts({"warmup": [{"update": 1, "loss": 0.5}]})) == ["loss"]
    assert charts({"warmup": []}) == {}


def test_alarms_have_their_first_and_last_update_and_are_in_the_charts_of_their_run():
    runs = {"nft": updates(6), "draft": [{"update": 1, "loss/kl": 0.1, "reward/mean": 1.0}]}
    assert alarms_of(runs) == [Alarm(run="nft", name="no_spread", first=5, last=6)]
    assert charts(runs)["distance to the reference"].alarms == [(5.0, "no_spread of nft")]
    assert charts(runs)["reward, the weighted sum of draft"].alarms == []


def test_every_alarm_of_the_training_has_a_meaning_and_says_when_it_was_active():
    assert MEANINGS.keys() == ALARMS.keys()
    one, more = (Alarm(run="nft", name="no_spread", first=5, last=last).description for last in (5, 6))
    assert one.endswith("nothing was learned (update 5)") and more.endswith("(updates 5 to 6)")


def test_the_smooth_line_is_a_centered_mean_of_what_there_is():
    assert smoothed(np.array([0.0, 3.0, 6.0, 3.0, 0.0])).tolist() == [3.0, 3.0, 2.4, 3.0, 3.0]
    assert smoothed(np.array([0.0, np.nan, 6.0])).tolist() == [3.0, 3.0, 3.0]
    assert np.isnan(smoothed(np.array([np.nan]))).all()
    assert smoothed(np.full(60, 0.25)).tolist() == pytest.approx([0.25] * 60)
