"""A reward server of our own, under an interpreter of its own: started when wanted, anew when gone, ended with us."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path
from typing import Any

from f5_tts.config.schema import ProviderConfig, WorkerConfig
from f5_tts.rewards.remote.protocol import TOKEN, Address, WorkerError, json_object, sentence


class OwnServer:
    """A server under another interpreter: started when it is wanted, anew when it is gone; it ends with this object,
    and with this process however that ends."""

    pause_s = 0.0  # before a further try, which takes the time of a start anyway
    hint = "what it said is above"

    def __init__(self, entry: ProviderConfig, worker: WorkerConfig, where: str) -> None:
        self.name, self.where, self.timeout_s = f"{where}.worker.python={worker.python}", where, worker.timeout_s
        self.python = find_program(str(worker.python), self.name)
        self.arguments = [entry.name, "--config", json.dumps(entry.config), "--port", "0", "--owned", where]
        self.turn = threading.Lock()
        self.address: Address | None = None

    def reach(self) -> Address:
        with self.turn:
            if self.address is not None and self.process.poll() is not None:
                warnings.warn(
                    f"{self.name} had ended (exit code {self.process.returncode}); started anew", stacklevel=2
                )
                self.stop()
                self.address = None
            if self.address is None:
                self.address = self.start()
            return self.address

    def drop(self, address: Address) -> None:
        """Ends the process of that address; if another thread has done so already, the new one stays."""
        with self.turn:
            if address == self.address:
                self.stop()
                self.address = None

    def start(self) -> Address:
        """Where a new process serves; waits until its provider is there.

        Raises WorkerError with what the process said against it, ConnectionError where something killed it.
        """
        token = secrets.token_hex(16)
        self.process = self.launch(token)
        self.stop = weakref.finalize(self, end, self.process)
        began = time.monotonic()
        report = first_object(self.process, self.timeout_s)
        in_time = time.monotonic() - began < self.timeout_s
        if in_time and "url" in report:
            return Address(report["url"], token)
        self.stop()
        if not in_time:
            raise WorkerError(f"{self.name} was not ready within worker.timeout_s={self.timeout_s:g}; raise that")
        if "error" in report:
            raise WorkerError(f"{self.name}: {report['error']}")
        if self.process.returncode < 0:
            raise ConnectionError(f"signal {-self.process.returncode} ended it before it was ready")
        raise WorkerError(f"{self.name} ended with exit code {self.process.returncode}: {why_not(self.python)}")

    def launch(self, token: str) -> subprocess.Popen[bytes]:
        """A process that says on stdout where it serves, or why not; other than ours, it finds modules by its own
        interpreter and from where the user stands."""
        try:
            return subprocess.Popen(
                [self.python, "-m", "f5_tts.rewards.serve", *self.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, TOKEN: token},
                start_new_session=True,  # Ctrl-C is for the run; the server ends when its stdin closes
            )
        except OSError as error:
            raise WorkerError(
                f"{self.name} cannot be run: {error.strerror}; it must be a Python interpreter"
            ) from error


def find_program(python: str, name: str) -> str:
    """The absolute path of an interpreter; a link stays one, since a virtual environment is known by it."""
    found = shutil.which(Path(python).expanduser())
    if found is None:
        raise WorkerError(f"{name} is no program that can be run; name an interpreter, as in ~/asr/.venv/bin/python")
    return str(Path(found).absolute())


def first_object(process: subprocess.Popen[bytes], timeout_s: float) -> dict[str, Any]:
    """What a process says first in JSON; nothing if it ends before, as it must after that time. What a script around it
    says on stdout is shown."""
    assert process.stdout is not None
    alarm = threading.Timer(timeout_s, kill, [process])
    alarm.start()
    try:
        for line in process.stdout:
            if found := json_object(line):
                return found
            sys.stderr.write(line.decode(errors="replace"))
        return {}
    finally:
        alarm.cancel()


def kill(process: subprocess.Popen[bytes]) -> None:
    """At once: it holds nothing that could be lost. Its stdin closes too, for one that is hidden behind a script."""
    assert process.stdin is not None
    process.kill()
    process.stdin.close()


def end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    kill(process)
    process.wait()
    process.stdout.close()


def why_not(python: str) -> str:
    """Why an interpreter serves no reward: in its own words, if it cannot import what that takes."""
    tried = subprocess.run([python, "-c", "import f5_tts.rewards.serve"], capture_output=True, stdin=subprocess.DEVNULL)
    if tried.returncode == 0:
        return "what it said is above"
    said = sentence(b"\n".join(tried.stderr.strip().splitlines()[-1:])) or "it cannot import f5_tts"
    return f"{said}; in the folder of f5-tts-rl, run: {python} -m pip install -e ."
