"""Loaders of real processes that are killed with SIGKILL."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from f5_tts.data import workers
from f5_tts.data.batching import start_worker
from f5_tts.data.scan import CHUNK_SIZE, map_in_processes
from f5_tts.data.workers import count_workers, hold_signals, read_with_restarts, worker_context
from f5_tts.threads import usable_cpus

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a loader look for dead workers every 0.2 s, not every 5 s."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


class Numbers(Dataset[int]):
    """The numbers from `first` on; the process that reads `deadly` is killed, once if there is a place to note it."""

    def __init__(self, first: int, deadly: int, note: Path | None) -> None:
        self.first, self.deadly, self.note = first, deadly, note

    def __len__(self) -> int:
        return 10 - self.first

    def __getitem__(self, index: int) -> int:
        if self.first + index == self.deadly and not (self.note and self.note.exists()):
            if self.note:
                self.note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.first + index


def read(deadly: int, note: Path | None, num_workers: int = 2) -> list[int]:
    def start(done: int) -> DataLoader[int]:
        numbers = Numbers(done, deadly, note)
        return DataLoader(numbers, batch_size=None, num_workers=num_workers, multiprocessing_context=worker_context())

    return list(read_with_restarts(start, num_workers))


def test_killed_workers_are_started_anew_and_no_batch_is_lost_or_read_twice(tmp_path):
    with pytest.warns(UserWarning, match=r"reads the data was killed by SIGKILL: .*\(the processes are started anew\)"):
        assert read(5, tmp_path / "killed") == list(range(10))


def test_workers_that_are_killed_at_the_same_batch_again_are_one_sentence_with_the_key():
    with (
        pytest.warns(UserWarning, match="started anew"),
        pytest.raises(ChildProcessError, match=r"SIGKILL: .* memory .* lower datasets\.num_workers=2$"),
    ):
        read(0, None)


def test_the_end_of_a_worker_interrupts_nothing_but_the_wait_for_a_batch(tmp_path):
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.warns(UserWarning, match="started anew"):
        read(9, tmp_path / "killed")
    assert signal.getsignal(signal.SIGCHLD) == before


def test_an_error_of_the_data_set_stays_what_it_is_and_no_end_of_a_worker_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "END_S", 1e9)
    with pytest.raises(FileNotFoundError):
        read(3, tmp_path / "no" / "folder", num_workers=1)


class Blocked(Dataset[bool]):
    """Whether the process that reads gets no Ctrl-C."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bool:
        return is_ctrl_c_blocked()


def is_ctrl_c_blocked(item: int = 0) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.usefixtures("real_start")
def test_processes_that_read_get_no_ctrl_c_from_their_start_on_and_the_run_does():
    """A terminal sends it to all; those that were still importing their libraries ended with a traceback."""

    def start(done: int) -> DataLoader[bool]:
        return DataLoader(Blocked(), batch_size=None, num_workers=1, multiprocessing_context=worker_context())

    assert list(read_with_restarts(start, 1)) == [True] and not is_ctrl_c_blocked()
    scanned = list(map_in_processes(is_ctrl_c_blocked, range(CHUNK_SIZE + 1), 2, "scan"))
    assert all(scanned) and not is_ctrl_c_blocked()


# --- how many, and how they start ---


def test_workers_are_as_many_as_the_machine_has_cpus_beside_those_that_train(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert usable_cpus() == 1 and count_workers(None) == 0
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert usable_cpus() == 8 and count_workers(None) == 7
    assert (count_workers(0), count_workers(40)) == (0, 40)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert count_workers(None) == 1
    monkeypatch.setattr(os, "cpu_count", lambda: 512)
    assert count_workers(None) == 16


class Ancestry(Dataset[tuple[int, float]]):
    """Parent of the process that reads, and the CPU seconds that it has taken."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[int, float]:
        return os.getppid(), time.process_time()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are new interpreters elsewhere")
@pytest.mark.usefixtures("real_start")
def test_workers_are_forks_of_one_server_and_import_nothing_again():
    """Importing takes more than a second of CPU time."""

    def start(done: int) -> DataLoader[tuple[int, float]]:
        return DataLoader(Ancestry(), batch_size=None, num_workers=2, multiprocessing_context=worker_context())

    parents, seconds = zip(*read_with_restarts(start, 2), strict=True)
    assert len(set(parents)) == 1 and parents[0] != os.getpid()
    assert max(seconds) < 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is imported before")
def test_the_module_of_the_command_is_not_imported_before_workers_run_it(monkeypatch):
    """Each runs it as `__mp_main__`, and runpy would warn on the console."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", find_spec("f5_tts.data.scan"))
    worker_context()
    preloaded = vars(forkserver._forkserver)["_preload_modules"]
    assert "f5_tts.data.workers" in preloaded and "f5_tts.data.scan" not in preloaded


class Deaf(Dataset[bool]):
    """Whether the process that reads gets no SIGTERM."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bool:
        return signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no server")
def test_the_server_of_workers_outlives_the_sigterm_of_a_launcher_and_workers_get_it():
    """A launcher sends it to the group; a run that then read on sometimes found its server ending, and failed."""

    def start(done: int) -> DataLoader[bool]:
        options = {"multiprocessing_context": worker_context(), "worker_init_fn": start_worker}
        return DataLoader(Deaf(), batch_size=None, num_workers=1, **options)

    assert list(read_with_restarts(start, 1)) == [False]
    server = vars(forkserver._forkserver)["_forkserver_pid"]
    os.kill(server, signal.SIGTERM)
    assert list(read_with_restarts(start, 1)) == [False]
    assert vars(forkserver._forkserver)["_forkserver_pid"] == server


def test_a_signal_that_another_thread_receives_is_held_back_too() -> None:
    """Send Ctrl-C to a thread that does not block it: without hold_signals it ends the body."""
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    steps = 0
    try:
        with pytest.raises(KeyboardInterrupt), hold_signals():
            signal.pthread_kill(other.ident or 0, signal.SIGINT)
            for _ in range(1_000_000):
                steps += 1
    finally:
        over.set()
    assert steps == 1_000_000 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
