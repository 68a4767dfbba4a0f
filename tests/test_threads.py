from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import torch

from f5_tts import threads
from f5_tts.threads import busy_cpus, free_cpus, limit_threads

SET = "OMP_NUM_THREADS"


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets the cores of the machine, those of this process, its load and what runs now."""

    def set_up(cores: int, load: float, running: int, own: int | None = None) -> None:
        for name in (*threads.SET_BY_USER, "LOCAL_WORLD_SIZE", "RANK"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(own or cores)), raising=False)
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
        monkeypatch.setattr(Path, "open", lambda self, **_: io.StringIO(f"{load} 0 0 {running + 1}/99 7\n"))

    return set_up


@pytest.fixture
def own_threads():
    """Let torch have four threads, and then its number before."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("load", "running", "free"),
    [
        (0.0, 0, 8),
        (3.0, 3, 5),
        (2.6, 3, 5),  # 8 - 2.6, rounded
        (8.0, 0, 8),  # a command that has just ended
        (0.0, 8, 8),  # a moment
        (20.0, 30, 1),
    ],
)
def test_cores_are_free_that_neither_the_last_minute_nor_this_moment_uses(machine, load, running, free):
    machine(8, load, running)
    assert free_cpus() == free


def test_the_cores_of_a_job_are_its_own_and_its_processes_share_them(machine, monkeypatch):
    machine(128, 100.0, 100, own=8)
    assert busy_cpus() == 0 and free_cpus() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert free_cpus() == 2  # 8 / 3, rounded down
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert free_cpus() == 1


def test_without_proc_the_load_average_counts_alone(machine, monkeypatch):
    machine(8, 3.0, 0)

    def is_missing(self: Path, **_: str) -> None:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "open", is_missing)
    assert free_cpus() == 5


def test_torch_gets_what_is_free_and_it_is_said_in_one_line(machine, own_threads, capsys):
    machine(4, 3.0, 3)
    limit_threads()
    assert torch.get_num_threads() == 1
    assert capsys.readouterr() == (
        "",
        "computing with 1 of 4 threads: other processes are at work; OMP_NUM_THREADS=4 takes all\n",
    )


@pytest.mark.parametrize("name", threads.SET_BY_USER)
def test_a_number_that_the_user_or_a_launcher_has_set_stays(machine, own_threads, monkeypatch, capsys, name):
    machine(4, 4.0, 4)
    monkeypatch.setenv(name, "4")
    limit_threads()
    assert torch.get_num_threads() == 4 and capsys.readouterr().err == ""


def test_nothing_changes_on_a_machine_that_is_free_and_torch_takes_no_more_than_by_itself(machine, own_threads, capsys):
    machine(8, 0.0, 0)  # as with two threads to a core, of which torch takes one
    limit_threads()
    assert torch.get_num_threads() == 4 and capsys.readouterr().err == ""


def test_ranks_other_than_the_first_say_nothing(machine, own_threads, monkeypatch, capsys):
    machine(4, 0.0, 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    limit_threads()
    assert torch.get_num_threads() == 2 and capsys.readouterr().err == ""
    torch.set_num_threads(4)
    monkeypatch.setenv("RANK", "0")
    limit_threads()
    assert "2 of 4 threads: processes share the cores" in capsys.readouterr().err
