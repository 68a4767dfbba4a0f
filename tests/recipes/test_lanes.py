"""Lanes of real commands: order, what is printed, failure, Ctrl-C and resuming."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from recipes.digits.lanes import LEDGER, Lane, Phase, cpu_seconds, last_lines, run_lanes

pytestmark = pytest.mark.slow


def job(*arguments: object, result: Path | None = None) -> Phase:
    words = [str(argument) for argument in arguments]
    return Phase(title=f"job {words[0]}", module="tests.recipes.job", arguments=words, result=result)


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary.txt"


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def lane(name: str, tmp_path: Path, *phases: Phase) -> Lane:
    return Lane(name=name, phases=phases, folder=tmp_path / "logs")


def test_each_lane_runs_its_phases_in_order_with_one_thread_and_logs_their_output(tmp_path, diary, capfd) -> None:
    one = lane("one", tmp_path, job("write", diary, "a1"), job("write", diary, "a2"))
    two = lane("two", tmp_path, job("write", diary, "b1"))
    assert run_lanes([one, two], at_once=2)
    written = diary.read_text("utf-8").split()
    assert sorted(written) == ["a1", "a2", "b1"] and written.index("a1") < written.index("a2")
    log = one.log.read_text("utf-8")
    assert log.index("wrote a1 with 1 thread") < log.index("wrote a2 with 1 thread") and "b1" not in log
    printed = capfd.readouterr().out
    assert f"== one: job write\n$ OMP_NUM_THREADS=1 .venv/bin/python -m tests.recipes.job write {diary} a1" in printed
    assert "wrote" not in printed


def test_with_room_for_one_lane_they_run_one_after_the_other(tmp_path, diary) -> None:
    one = lane("one", tmp_path, job("write", diary, "a1"), job("write", diary, "a2"))
    assert run_lanes([one, lane("two", tmp_path, job("write", diary, "b1"))], at_once=1)
    assert diary.read_text("utf-8").split() == ["a1", "a2", "b1"]


def test_a_command_that_fails_stops_the_other_lane_cleanly_and_ends_the_job_with_its_exit_code(
    tmp_path, diary, fifo, capfd
) -> None:
    failing = lane("one", tmp_path, job("fail", fifo), job("write", diary, "later"))
    other = lane("two", tmp_path, job("hold", diary, fifo), job("write", diary, "later"))
    with pytest.raises(SystemExit) as ended:
        run_lanes([failing, other, lane("three", tmp_path, job("write", diary, "later"))], at_once=2)
    assert ended.value.code == 7
    assert diary.read_text("utf-8").split() == ["saved"]
    printed = capfd.readouterr().out
    assert (
        f"failed with exit code 7: job fail\nloading\nstep 2\nerror: no such voice\nall output: {failing.log}"
        in printed
    )


def test_ctrl_c_stops_both_lanes_cleanly_and_the_next_run_goes_on_with_what_is_left(
    tmp_path, diary, fifo, capfd
) -> None:
    done = tmp_path / "done"

    def lanes(*later: Phase) -> list[Lane]:
        first = job("write", done, "scores", result=done)
        return [lane("one", tmp_path, first, later[0]), lane("two", tmp_path, later[1])]

    assert not run_lanes(lanes(job("interrupt", fifo), job("hold", diary, fifo)), at_once=2)
    assert diary.read_text("utf-8").split() == ["saved"] and done.read_text("utf-8") == "scores\n"
    capfd.readouterr()
    assert run_lanes(lanes(job("write", diary, "a2"), job("write", diary, "b1")), at_once=1)
    assert diary.read_text("utf-8").split() == ["saved", "a2", "b1"] and done.read_text("utf-8") == "scores\n"
    assert f"{done} exists: nothing to do" in capfd.readouterr().out


def test_the_cpu_seconds_of_a_phase_are_summed_over_its_runs(tmp_path, diary) -> None:
    phase = job("write", diary, "a1")
    for _ in range(2):
        assert run_lanes([lane("one", tmp_path, phase, job("write", diary, "a2"))], at_once=1)
    rows = [json.loads(line) for line in (tmp_path / "logs" / LEDGER).read_text("utf-8").splitlines()]
    assert [row["exit_code"] for row in rows] == [0] * 4 and all(row["cpu_seconds"] > 0 for row in rows)
    assert cpu_seconds(tmp_path / "logs", phase) == rows[0]["cpu_seconds"] + rows[2]["cpu_seconds"]


def test_a_checkpoint_is_copied_once_and_the_copy_is_printed_as_a_command(tmp_path, diary) -> None:
    (tmp_path / "base.pt").write_text("base", encoding="utf-8")
    copies = (tmp_path / "base.pt", tmp_path / "new" / "model_last.pt")
    phase = Phase(title="train", module="tests.recipes.job", arguments=[], copies=copies)
    assert phase.copy() == f"cp {copies[0]} {copies[1]}"
    copies[1].write_text("trained", encoding="utf-8")
    assert phase.copy() is None and copies[1].read_text("utf-8") == "trained"


def test_the_last_lines_hold_a_progress_bar_once() -> None:
    assert last_lines("a\n10%\r20%\r30%\n\nb\n", 2) == ["30%", "b"]
    assert last_lines("", 3) == []
