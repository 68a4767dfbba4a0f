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
from f5_tts.rewards.remote.protocol import TOKEN, Address, WorkerError, json_object, one_line


class SubprocessServer:
    """A server under another interpreter: started when it is wanted, anew when it is gone; it ends with this object,
    and with this process however that ends."""

    pause_s = 0.0  # before a further try, which takes the time of a start anyway
    hint = "what it said is above"

    def __init__(self, entry: ProviderConfig, worker: WorkerConfig, config_key: str) -> None:
        self.name, self.config_key, self.timeout_s = (
            f"{config_key}.worker.python={worker.python}",
            config_key,
            worker.timeout_s,
        )
        self.python = find_program(str(worker.python), self.name)
        self.arguments = [entry.name, "--config", json.dumps(entry.config), "--port", "0", "--owned", config_key]
        self.lock = threading.Lock()
        self.address: Address | None = None

    def ensure_running(self) -> Address:
        with self.lock:
            if self.address is not None and self.process.poll() is not None:
                warnings.warn(
                    f"{self.name} had ended (exit code {self.process.returncode}); started anew", stacklevel=2
                )
                self.stop()
                self.address = None
            if self.address is None:
                self.address = self.start()
            return self.address

    def discard(self, address: Address) -> None:
        """Ends the process of that address; if another thread has done so already, the new one stays."""
        with self.lock:
            if address == self.address:
                self.stop()
                self.address = None

    def start(self) -> Address:
        """Where a new process serves; waits until its provider is there.

        Raises WorkerError with what the process said against it, ConnectionError where something killed it.
        """
        token = secrets.token_hex(16)
        self.process = self.launch(token)
        self.stop = weakref.finalize(self, terminate, self.process)
        started = time.monotonic()
        message = read_startup_message(self.process, self.timeout_s)
        in_time = time.monotonic() - started < self.timeout_s
        if in_time and "url" in message:
            return Address(message["url"], token)
        self.stop()
        if not in_time:
            raise WorkerError(f"{self.name} was not ready within worker.timeout_s={self.timeout_s:g}; raise that")
        if "error" in message:
            raise WorkerError(f"{self.name}: {message['error']}")
        if self.process.returncode < 0:
            raise ConnectionError(f"signal {-self.process.returncode} ended it before it was ready")
        raise WorkerError(f"{self.name} ended with exit code {self.process.returncode}: {diagnose(self.python)}")

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
    path = shutil.which(Path(python).expanduser())
    if path is None:
        raise WorkerError(f"{name} is no program that can be run; name an interpreter, as in ~/asr/.venv/bin/python")
    return str(Path(path).absolute())


def read_startup_message(process: subprocess.Popen[bytes], timeout_s: float) -> dict[str, Any]:
    """What a process says first in JSON; nothing if it ends before, as it must after that time. What a script around it
    says on stdout is shown."""
    assert process.stdout is not None
    timer = threading.Timer(timeout_s, kill, [process])
    timer.start()
    try:
        for line in process.stdout:
            if message := json_object(line):
                return message
            sys.stderr.write(line.decode(errors="replace"))
        return {}
    finally:
        timer.cancel()


def kill(process: subprocess.Popen[bytes]) -> None:
    """At once: it holds nothing that could be lost. Its stdin closes too, for one that is hidden behind a script."""
    assert process.stdin is not None
    process.kill()
    process.stdin.close()


def terminate(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    kill(process)
    process.wait()
    process.stdout.close()


def diagnose(python: str) -> str:
    """Why an interpreter serves no reward: in its own words, if it cannot import what that takes."""
    result = subprocess.run(
        [python, "-c", "import f5_tts.rewards.serve"], capture_output=True, stdin=subprocess.DEVNULL
    )
    if result.returncode == 0:
        return "what it said is above"
    message = one_line(b"\n".join(result.stderr.strip().splitlines()[-1:])) or "it cannot import f5_tts"
    return f"{message}; in the folder of f5-tts-rl, run: {python} -m pip install -e ."
