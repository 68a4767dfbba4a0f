from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from f5_tts.report.metric_rows import metric_rows
from f5_tts.train.alarms import ALARMS, AlarmFn, AlarmMonitor, Row, less_natural, reward_hacked

RECORDED = Path(__file__).parent
BY_POCKETSPHINX = {"reward_hacked": partial(reward_hacked, judge="eval/wer")}

BAD = {
    "sigma_collapsed": "rl.train_sigma=false",
    "ratio_out_of_range": "lower rl.updates_per_rollout",
    "kl_out_of_range": "raise rl.kl_weight",
    "reward_too_large": "rl.rewards.mode=rank_shaping",
    "no_spread": "raise rl.mini_repeat_count",
    "reward_hacked": "raise rl.kl_weight",
    "less_natural": "give the reward f0_spread a weight",
}  # alarm -> config key that its message names


def healthy(update: int) -> dict[str, float]:
    """Build the metrics of a run that learns, with two updates per rollout: σ, KL, reward and judge."""
    row = {
        "policy/sigma_mean": 0.5 - 0.002 * update + 0.05 * math.sin(update),
        "clip_ratio/region_mean": 0.2 if update % 2 else 0.0,
        "ratio/max_dev": 2e-4 if update % 2 else 0.0,
        "loss/kl": 2e-5 * update**2,
        "frac_reward_zero_std": 0.25,
        "reward/mean": 0.5 + 0.002 * update,
        "reward/min": 0.1,
        "reward/max": 0.9,
    }
    row |= {} if update % 2 else {"ratio/initial_max_dev": 0.0}
    judged = {"judge/wer": 0.4 - 0.001 * update, "eval/f0_spread": 2.5 - 0.005 * update, "eval/mos": 3.0}
    return row | ({} if update % 10 else judged)


def made(name: str, update: int) -> dict[str, float]:
    """Build the metrics of the healthy run with one fault from update 40 on."""
    row, late = healthy(update), update - 40
    if late < 0:
        return row
    if name == "sigma_collapsed":
        row["policy/sigma_mean"] = 0.1
    elif name == "ratio_out_of_range" and update % 2:
        row["clip_ratio/region_mean"] = 0.9
    elif name == "kl_out_of_range":
        row["loss/kl"] = 0.6
    elif name == "reward_too_large":
        row |= {"reward/min": -1e38, "reward/max": 1e38}
    elif name == "no_spread":
        row["frac_reward_zero_std"] = 1.0
    elif name == "reward_hacked" and "judge/wer" in row:
        row["judge/wer"] = 0.45 + 0.008 * late
    elif name == "less_natural" and "judge/wer" in row:
        row["eval/f0_spread"] = 1.8
    return row


def rung(rows: list[dict[str, float]], alarms: Mapping[str, AlarmFn] = ALARMS) -> tuple[list[set[str]], list[str]]:
    """Collect the active alarms after each row, and all lines."""
    watch, ringing, output = AlarmMonitor(alarms), list[set[str]](), list[str]()
    for row in rows:
        result, lines = watch(row)
        assert set(result.values()) <= {1.0}
        ringing.append({name.removeprefix("health/alarm_") for name in result})
        output += lines
    return ringing, output


def test_a_healthy_run_is_silent():
    ringing, output = rung([healthy(update) for update in range(100)])
    assert ringing == [set()] * 100 and output == []


def test_there_is_a_made_history_for_every_alarm():
    assert BAD.keys() == ALARMS.keys()


@pytest.mark.parametrize("name", BAD)
def test_an_alarm_rings_alone_soon_after_what_it_watches_for_and_says_once_which_knob_to_turn(name: str):
    ringing, output = rung([made(name, update) for update in range(80)])
    first = next(update for update, found in enumerate(ringing) if found)
    assert 40 <= first <= 60
    assert ringing[first:] == [{name}] * (80 - first)
    assert len(output) == 1 and output[0].startswith(f"alarm {name}: ") and BAD[name] in output[0]


@pytest.mark.parametrize("name", BAD)
def test_it_stops_when_all_is_well_again_and_is_said_anew_when_not(name: str):
    """Let the reward of the second bad stretch be higher than before, as it is where it is hacked."""
    bad = [made(name, update) for update in range(120)]
    more = 0.5 if name == "reward_hacked" else 0.0
    again = [{**row, "reward/mean": row["reward/mean"] + more} for row in bad[40:]]
    ringing, output = rung(bad[:80] + [healthy(update) for update in range(80, 140)] + again)
    assert ringing[139] == set() and len(output) == 2


def test_one_update_is_no_alarm():
    rows = [healthy(update) for update in range(50)]
    odd = {"clip_ratio/region_mean": 1.0, "ratio/max_dev": 1.0, "loss/kl": 0.04, "frac_reward_zero_std": 1.0}
    rows[41] |= odd | {"policy/sigma_mean": 0.01}
    assert rung(rows)[1] == []


def test_a_kl_that_grows_tenfold_in_five_updates_rings_before_it_is_large():
    """Use means of 0.03 and then 0.36."""
    ringing, output = rung([{"loss/kl": value} for value in [0.03] * 10 + [0.36] * 5])
    assert ringing[-2:] == [set(), {"kl_out_of_range"}]
    assert "rose from 0.03 to 0.36 within 5 updates" in output[0]


def test_a_kl_of_every_tenth_update_rings_after_five_of_them():
    """Have nothing but the loss between them, as draft with rl.anchor_every=10 has."""
    ringing, output = rung([{"loss": 1.0} if update % 10 else {"loss": 1.0, "loss/kl": 0.6} for update in range(50)])
    assert ringing[39:] == [set()] + 10 * [{"kl_out_of_range"}]
    assert len(output) == 1


def test_a_judge_that_gets_worse_with_the_reward_is_no_hacked_reward():
    rows = [{"reward/mean": 0.5 - 0.01 * update, "judge/wer": 0.4 + 0.1 * update} for update in range(20)]
    assert rung(rows)[1] == []


def test_without_the_metrics_an_alarm_looks_at_it_is_silent():
    assert rung([{"loss": 1.0}] * 30)[1] == []


def test_numbers_that_are_not_finite_are_passed_over():
    rows: list[Row] = [{"loss/kl": value} for value in [0.6, math.nan, 0.6, None, 0.6, 0.6, math.inf]]
    watch = AlarmMonitor(ALARMS, rows)
    assert watch({"loss/kl": 0.6})[0] == {"health/alarm_kl_out_of_range": 1.0}


def test_a_resumed_run_rings_as_the_whole_one():
    rows = [made("sigma_collapsed", update) for update in range(60)]
    whole, _ = rung(rows)
    watch = AlarmMonitor(ALARMS, rows[:45])
    later = [{name.removeprefix("health/alarm_") for name in watch(row)[0]} for row in rows[45:]]
    assert later == whole[45:] and {"sigma_collapsed"} in later


# --- less_natural ---


@pytest.mark.parametrize(
    ("errors", "metric", "values", "rings_at"),
    [
        ([0.4, 0.3, 0.3, 0.3], "eval/f0_spread", [2.0, 1.4, 1.4, 1.4], 2),  # three quarters of 2.0 are 1.5
        ([0.4, 0.3, 0.3, 0.3], "eval/f0_spread", [2.0, 1.4, 1.6, 1.4], None),  # never two in a row
        ([0.4, 0.4, 0.4, 0.4], "eval/f0_spread", [2.0, 1.0, 1.0, 1.0], None),  # not more intelligible
        ([0.4, 0.3, 0.3, 0.3], "eval/mos", [3.0, 2.9, 2.75, 2.7], 3),
        ([0.4, 0.3, 0.3, 0.3], "eval/mos", [math.nan] * 4, None),
    ],
)
def test_fewer_errors_in_speech_that_gets_less_natural_are_an_alarm(errors, metric, values, rings_at):
    rows = [{"judge/wer": wer, metric: value} for wer, value in zip(errors, values, strict=True)]
    ringing, output = rung(rows, {"less_natural": less_natural})
    assert next((index for index, found in enumerate(ringing) if found), None) == rings_at
    assert all(f", and {metric} fell from" in line for line in output)


# --- reward_hacked ---


def recorded(name: str, *without: str) -> list[dict[str, float]]:
    """Read the rows of a run, without some of the metrics.

    hacked_run.jsonl and sound_run.jsonl are made after tables of a trial: draft with a learning rate of 3e-4, whose
    error rate by pocketsphinx fell from 44 to 14 % and rose to 27 %, and with 2e-4.
    """
    rows = metric_rows(RECORDED / name)
    return [{key: value for key, value in row.items() if key not in without} for row in rows]


@pytest.mark.parametrize(("left_out", "named"), [("eval/sim", "eval/wer"), ("eval/wer", "eval/sim")])
def test_a_hacked_run_is_found_by_the_recogniser_and_by_the_voice_alone(left_out: str, named: str):
    """Expect the alarm at the second validation in a row that is worse: update 100."""
    ringing, output = rung(recorded("hacked_run.jsonl", left_out), BY_POCKETSPHINX)
    assert next(update for update, found in enumerate(ringing) if found) == 100
    assert len(output) == 1 and f"{named} got worse" in output[0]


def test_a_recorded_run_that_loses_the_voice_is_found_by_its_second_validation():
    """voiceless_run.jsonl is the run of tests/e2e/test_hacking.py, without rl.stop_when.

    pocketsphinx hears fewer errors than at the start all the time.
    """
    ringing, output = rung(recorded("voiceless_run.jsonl"), BY_POCKETSPHINX)
    assert next(update for update, found in enumerate(ringing) if found) == 40
    assert len(output) == 1 and "eval/sim got worse" in output[0]


def test_a_sound_run_is_silent():
    assert rung(recorded("sound_run.jsonl"), BY_POCKETSPHINX)[1] == []


def test_the_same_errors_with_a_reward_that_falls_are_no_hacked_reward():
    rows = recorded("hacked_run.jsonl")
    for row in rows[1:]:
        row["reward/mean"] = -0.05 * row["update"]
    assert rung(rows, BY_POCKETSPHINX)[1] == []


def test_one_validation_that_is_worse_is_no_alarm():
    rows = recorded("hacked_run.jsonl", "eval/sim")
    rows[100]["eval/wer"] = 0.15
    assert rung(rows[:120], BY_POCKETSPHINX)[1] == []


def test_a_run_that_is_resumed_after_the_alarm_has_it_before_its_first_update():
    rows = recorded("hacked_run.jsonl")
    for end, active in ((100, False), (101, True)):
        assert AlarmMonitor(BY_POCKETSPHINX, rows[:end]).is_active("reward_hacked") is active
    assert not AlarmMonitor({}, rows).is_active("reward_hacked")
