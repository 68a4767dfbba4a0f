"""Reward server in a subprocess, which may run under another Python interpreter."""

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

DIAGNOSIS_S = 60.0  # s, to import this package in another interpreter


class SubprocessServer:
    """Reward server in a subprocess: started on demand and restarted if it has ended.

    The subprocess ends with this object, and with this process however it ends.
    """

    pause_s = 0.0  # before a retry; the restart itself takes time
    hint = "its output is above"

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
        """Return the address of the running server; start or restart it if needed."""
        with self.lock:
            if self.address is not None and self.process.poll() is not None:
                warnings.warn(
                    f"{self.name} had ended (exit code {self.process.returncode}); it was restarted", stacklevel=2
                )
                self.stop()
                self.address = None
            if self.address is None:
                self.address = self.start()
            return self.address

    def discard(self, address: Address) -> None:
        """Stop the process at that address, unless another thread has already replaced it."""
        with self.lock:
            if address == self.address:
                self.stop()
                self.address = None

    def start(self) -> Address:
        """Start a process and wait until its provider is ready; return its address.

        Raises WorkerError with the reason that the process gives, ConnectionError if a signal killed it.
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
        """Start the process, which prints its URL or its error as JSON on stdout.

        Unlike the worker processes of this package, it imports modules by its own interpreter's path and from the
        working directory.
        """
        try:
            return subprocess.Popen(
                [self.python, "-m", "f5_tts.rewards.serve", *self.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, TOKEN: token},
                start_new_session=True,  # the process ends when its stdin closes; Ctrl-C must reach the run alone
            )
        except OSError as error:
            raise WorkerError(
                f"{self.name} cannot be run: {error.strerror}; it must be a Python interpreter"
            ) from error


def find_program(python: str, name: str) -> str:
    """Return the absolute path of an interpreter, or raise WorkerError if there is none.

    Symbolic links are kept, because a virtual environment is found by the path of its link.
    """
    path = shutil.which(Path(python).expanduser())
    if path is None:
        raise WorkerError(f"{name} is not a program that can be run; name an interpreter, as in ~/asr/.venv/bin/python")
    return str(Path(path).absolute())


def read_startup_message(process: subprocess.Popen[bytes], timeout_s: float) -> dict[str, Any]:
    """Return the first JSON object on a process's stdout; {} if the process ends before.

    The process is killed after the timeout. Other lines, such as the output of a wrapper script, go to stderr.
    """
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
    """Kill a process, and close its stdin so that a server behind a wrapper script ends too."""
    assert process.stdin is not None
    process.kill()
    process.stdin.close()


def terminate(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and wait until it has ended."""
    assert process.stdout is not None
    kill(process)
    process.wait()
    process.stdout.close()


def diagnose(python: str) -> str:
    """Explain why an interpreter cannot serve a reward: the last line of its import error, if there is one."""
    command = [python, "-c", "import f5_tts.rewards.serve"]
    try:
        result = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=DIAGNOSIS_S)
    except subprocess.TimeoutExpired:
        return "its output is above"
    if result.returncode == 0:
        return "its output is above"
    message = one_line(b"\n".join(result.stderr.strip().splitlines()[-1:])) or "it cannot import f5_tts"
    return f"{message}; in the folder of f5-tts-rl, run: {python} -m pip install -e ."
