from __future__ import annotations

import json
from pathlib import Path

from f5_tts.train.report import Report


def report(folder: Path, *, first: int) -> Report:
    return Report(folder, first=first, total=9, title="test")


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
    """Four updates were reported, but the run goes on from the state after the second."""
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
