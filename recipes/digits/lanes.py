"""Lanes of commands that run beside each other, each command with one thread: output in log files, resumable.

A lane is a list of phases, run in order; a phase is one command that a user can repeat. Several lanes run at a time.
Ctrl-C stops every running command, which saves its state; so does the failure of another one.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # models of this size gain nothing from a second one
POLL_SECONDS = 0.25  # between two looks at the running commands
LAST_LINES = 20  # of a failed command's output
TAIL_BYTES = 4096  # of a log, in which its last line is found
CLEAR = "\r\033[K"  # back to the start of the terminal's line, and clear it
LEDGER = "phases.jsonl"  # one row per command that ended: its CPU seconds and exit code


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One command of a recipe."""

    title: str
    module: str
    arguments: list[str]
    result: Path | None = None  # a file that exists only after the phase is complete; training resumes without one
    copies: tuple[Path, Path] | None = None  # checkpoint and where to copy it first, as the guide's `cp` does

    @property
    def command(self) -> str:
        """Return the command line as a user would type it."""
        threads = [f"{name}={value}" for name, value in ONE_THREAD.items()]
        return shlex.join([*threads, ".venv/bin/python", "-m", self.module, *self.arguments])

    @property
    def is_complete(self) -> bool:
        """Check whether the result exists."""
        return self.result is not None and self.result.exists()

    def copy(self) -> str | None:
        """Copy the checkpoint unless the copy exists; return the command that does so, None where nothing is copied."""
        if self.copies is None or self.copies[1].exists():
            return None
        self.copies[1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(*self.copies)
        return shlex.join(["cp", *map(str, self.copies)])


@dataclass(kw_only=True)
class Lane:
    """Phases that run one after the other; the output of all of them is appended to one log file."""

    name: str
    phases: Sequence[Phase]
    folder: Path  # of the log and of the ledger
    position: int = 0  # of the phase that runs or comes next
    running: RunningPhase | None = None

    @property
    def log(self) -> Path:
        """Return the path of the log file."""
        return self.folder / f"{self.name}.log"

    @property
    def is_finished(self) -> bool:
        """Check whether all phases are complete."""
        return self.position == len(self.phases)

    def start_next(self) -> bool:
        """Start the next phase that is not complete, and print its title and command; return False if there is none."""
        while not self.is_finished and self.phases[self.position].is_complete:
            phase = self.phases[self.position]
            say(f"\n== {self.name}: {phase.title}\n{phase.result} exists: nothing to do")
            self.position += 1
        if self.is_finished:
            return False
        phase = self.phases[self.position]
        lines = [f"\n== {self.name}: {phase.title}", *(f"$ {line}" for line in (phase.copy(), phase.command) if line)]
        say("\n".join(lines))
        self.running = RunningPhase(phase, self.log)
        return True

    def poll(self) -> int | None:
        """Return the exit code of the running phase and record its cost, or None while it runs."""
        assert self.running is not None, "a phase runs"
        if (row := self.running.poll()) is None:
            return None
        with (self.folder / LEDGER).open("a", encoding="utf-8") as ledger:
            ledger.write(json.dumps({"lane": self.name, **row}) + "\n")
        self.running = None
        self.position += row["exit_code"] == 0
        return row["exit_code"]


@dataclass
class RunningPhase:
    """A command that runs in a process group of its own, so that only its lane sends it signals."""

    phase: Phase
    log: Path
    start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            output.write(f"\n$ {self.phase.command}\n".encode())
            output.flush()
            self.offset = output.tell()  # in the log, of the command's output
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.phase.module, *self.phase.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ONE_THREAD},
                start_new_session=True,
            )

    def poll(self) -> dict | None:
        """Return what the command cost once it has ended: seconds, CPU seconds of it and its children, exit code."""
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if pid == 0:
            return None
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return {
            "command": self.phase.command,
            "seconds": time.monotonic() - self.start,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "exit_code": self.process.returncode,
        }

    def stop(self) -> None:
        """Ask the command to save and stop."""
        self.process.send_signal(signal.SIGINT)

    def output(self) -> str:
        """Return what the command has written."""
        return self.log.read_bytes()[self.offset :].decode(errors="replace")


@dataclass
class Scheduler:
    """Lanes in the order in which they start, at most `at_once` of them at a time."""

    waiting: list[Lane]
    at_once: int
    active: list[Lane] = field(default_factory=list)
    failure: tuple[RunningPhase, int] | None = None  # the first command that failed by itself, and its exit code
    stops_sent: int = 0  # to all running commands

    def step(self, stops: int) -> bool:
        """Look at the running commands and start what comes next; return False when all is done or stopped.

        Args:
            stops: how often the user asked to stop; the second time a command stops at once.
        """
        self.collect(is_stopping=stops > 0)
        stops += self.failure is not None
        if stops == 0:
            self.start()
        while self.stops_sent < stops:
            self.stop()
        return bool(self.active or (self.waiting and stops == 0))

    def collect(self, is_stopping: bool) -> None:
        """Take lanes out whose command was stopped or failed; remember the first failure."""
        for lane in list(self.active):
            running = lane.running
            if running is None or (code := lane.poll()) is None:
                continue
            if code != 0 and not is_stopping and self.failure is None:
                self.failure = (running, code)
            if code != 0 or is_stopping or self.failure:
                self.active.remove(lane)

    def start(self) -> None:
        """Start waiting lanes where there is room, and the next command of each lane; one without any is finished."""
        while self.waiting and len(self.active) < self.at_once:
            self.active.append(self.waiting.pop(0))
        for lane in list(self.active):
            if lane.running is None and not lane.start_next():
                self.active.remove(lane)

    def stop(self) -> None:
        """Ask all running commands to stop."""
        self.stops_sent += 1
        for lane in self.active:
            if lane.running:
                lane.running.stop()


def run_lanes(lanes: Sequence[Lane], at_once: int) -> bool:
    """Run lanes to their end, at most `at_once` at a time; return False if the user stopped them.

    Raises:
        SystemExit: a command failed; its last lines were printed and the other lanes stopped. It has the exit code.
    """
    scheduler = Scheduler(list(lanes), at_once)
    with stop_requests() as stops:
        try:
            while scheduler.step(len(stops)):
                show_progress(scheduler.active)
                time.sleep(POLL_SECONDS)
        finally:
            wait_for_all(scheduler)
    if scheduler.failure:
        raise SystemExit(report_failure(*scheduler.failure))
    return not stops


def wait_for_all(scheduler: Scheduler) -> None:
    """Stop what still runs, which only an error of this program leaves, and wait for it."""
    scheduler.stop()
    for lane in scheduler.active:
        while lane.running and lane.poll() is None:
            time.sleep(POLL_SECONDS)


def report_failure(running: RunningPhase, code: int) -> int:
    """Print the last lines of a command that failed; return the exit code of the whole recipe."""
    lines = last_lines(running.output(), LAST_LINES)
    say("\n".join([f"\nfailed with exit code {code}: {running.phase.title}", *lines, f"all output: {running.log}"]))
    return code if code > 0 else 128 - code  # ended by a signal


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect the numbers of SIGINT, SIGTERM and, unless nohup ignores it, SIGHUP while the context is open."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    numbers += [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    previous = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# --- the ledger ---


def cpu_seconds(folder: Path, phase: Phase) -> float:
    """Sum the CPU seconds of a phase over all its runs: a run that was stopped went on in the next one.

    Raises FileNotFoundError if the lanes in this folder have run no command.
    """
    rows = map(json.loads, (folder / LEDGER).read_text("utf-8").splitlines())
    return sum(row["cpu_seconds"] for row in rows if row["command"] == phase.command)


# --- the terminal ---


def say(text: str) -> None:
    """Print lines in place of the live line."""
    clear_line()
    print(text, flush=True)


def show_progress(lanes: Sequence[Lane]) -> None:
    """Print the last line of each lane's output in one line, which the next one replaces; only in a terminal."""
    if not sys.stdout.isatty():
        return
    columns = shutil.get_terminal_size().columns - 1
    width = columns // max(1, len(lanes)) - 3
    texts = [f"{lane.name}: {last_line(lane.log)}"[:width].ljust(width) for lane in lanes]
    clear_line()
    print(" | ".join(texts)[:columns], end="", flush=True)


def clear_line() -> None:
    """Clear the live line, in a call of its own, which passes the filter of control characters."""
    if sys.stdout.isatty():
        print(CLEAR, end="")


def last_line(log: Path) -> str:
    """Return the last line of a log, such as a progress bar."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = last_lines(file.read().decode(errors="replace"), 1)
    return lines[-1] if lines else ""


def last_lines(output: str, count: int) -> list[str]:
    """Return the last lines that are not empty; of a progress bar only its last state."""
    lines = [line.rpartition("\r")[2].rstrip() for line in output.rstrip("\r\n").split("\n")]
    return [line for line in lines if line][-count:]
