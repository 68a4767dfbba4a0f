from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.train.alarms import History, values
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.metrics_log import MetricsLog


def report(folder: Path, *, first: int) -> MetricsLog:
    return MetricsLog(folder, first=first, total=9, title="test")


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder: Path, *, first: int, updates: range, loss: float) -> None:
    open_report = report(folder, first=first)
    for update in updates:
        open_report({"loss": loss}, update)
    open_report.close()


def test_every_update_is_a_row_of_its_metrics(tmp_path):
    write(tmp_path, first=0, updates=range(1, 3), loss=0.5)
    assert rows(tmp_path) == [{"update": 1, "loss": 0.5}, {"update": 2, "loss": 0.5}]


def test_a_resumed_run_has_each_update_once(tmp_path):
    """Report four updates, and resume from the state after the second."""
    write(tmp_path, first=0, updates=range(1, 5), loss=0.5)
    write(tmp_path, first=2, updates=range(3, 5), loss=0.25)
    assert [(row["update"], row["loss"]) for row in rows(tmp_path)] == [(1, 0.5), (2, 0.5), (3, 0.25), (4, 0.25)]


def test_a_row_that_a_crash_cut_short_is_dropped_and_the_next_row_is_whole(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"update": 1, "loss": 0.5}\n{"update": 2, "lo')
    write(tmp_path, first=2, updates=range(3, 4), loss=0.25)
    assert rows(tmp_path) == [{"update": 1, "loss": 0.5}, {"update": 3, "loss": 0.25}]


def test_a_run_that_starts_over_starts_its_rows_over(tmp_path):
    write(tmp_path, first=0, updates=range(1, 3), loss=0.5)
    report(tmp_path, first=0).close()
    assert rows(tmp_path) == []


def test_metrics_that_the_bar_does_not_show_are_in_the_file(tmp_path):
    one = report(tmp_path, first=0)
    one({"reward/digits_wer.acc": 0.75}, 1)
    one.close()
    assert rows(tmp_path) == [{"update": 1, "reward/digits_wer.acc": 0.75}]


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path):
    one = report(tmp_path, first=0)
    one({"loss": math.nan, "grad_norm": math.inf, "lr": 0.5}, 1)
    one.close()
    assert rows(tmp_path) == [{"update": 1, "loss": None, "grad_norm": None, "lr": 0.5}]


def test_what_is_measured_before_the_first_update_is_a_row_and_no_update(tmp_path):
    one = report(tmp_path, first=0)
    one({"eval/wer": 0.5}, 0)
    assert one.bar.n == 0
    one({"loss": 0.5}, 1)
    assert one.bar.n == 1
    one.close()
    assert [row["update"] for row in rows(tmp_path)] == [0, 1]
    report(tmp_path, first=0).close()
    assert rows(tmp_path) == []


def test_an_alarm_is_in_the_rows_while_it_rings_and_on_the_console_once(tmp_path, capsys):
    def too_high(history: History) -> str | None:
        return "lower it" if values(history.recent, "loss")[-1] > 1 else None

    one = MetricsLog(tmp_path, first=0, total=9, title="test", alarms={"loss": too_high})
    for update, loss in enumerate([0.5, 2.0, 2.0, 0.5], 1):
        one({"loss": loss}, update)
    one.close()
    assert [row.get("health/alarm_loss") for row in rows(tmp_path)] == [None, 1.0, 1.0, None]
    assert capsys.readouterr().out == "update 2: alarm loss: lower it\n"


def test_alarms_of_a_resumed_run_know_the_rows_before_it(tmp_path):
    def three(history: History) -> str | None:
        return "three" if len(history.start) == 3 else None

    write(tmp_path, first=0, updates=range(1, 5), loss=0.5)
    one = MetricsLog(tmp_path, first=2, total=9, title="test", alarms={"three": three})
    one({"loss": 0.5}, 3)
    one.close()
    assert "health/alarm_three" in rows(tmp_path)[-1]


def test_a_folder_that_was_moved_is_said_and_not_made_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    one = report(folder, first=0)
    checkpoints = CheckpointDir(compose_config("F5TTS_Mini", [f"ckpts.save_dir={folder}"], TrainConfig).ckpts)
    one({"loss": 0.5}, 1)
    folder.rename(tmp_path / "elsewhere")
    sentence = (
        rf"^ckpts\.save_dir={folder} is no longer there: it was moved or removed while the run trained; move it back"
    )
    with one.bar, pytest.raises(FileNotFoundError, match=sentence):
        one({"loss": 0.5}, 2)
    with pytest.raises(FileNotFoundError, match=sentence):
        checkpoints.write("model_last.pt", dict)
    assert not folder.exists() and len(rows(tmp_path / "elsewhere")) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device of Linux on which nothing fits")
def test_a_row_that_does_not_fit_on_the_disk_names_the_key_that_says_where_to(tmp_path):
    one = report(tmp_path, first=0)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with (
        one.bar,
        pytest.raises(OSError, match=rf"No space left.*; point ckpts\.save_dir={tmp_path} to a larger volume"),
    ):
        one({"loss": 1.0}, 1)
