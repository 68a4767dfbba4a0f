"""Jobs: commands in processes of their own, which go on when the page, the browser or its server end."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from f5_tts.files import write_atomically

JOB, LOG, PROCESS, ENDED = "job.json", "output.log", "process.json", "ended"
TAIL = 6000  # characters of the output that the page shows


@dataclass(frozen=True)
class Job:
    """Job in its folder."""

    folder: Path

    @property
    def id(self) -> str:
        """Return the name of the folder."""
        return self.folder.name

    @property
    def order(self) -> dict[str, Any]:
        """Return what the job was started with: title, kind, commands, and what its page needs."""
        return json.loads((self.folder / JOB).read_text(encoding="utf-8"))

    @property
    def state(self) -> str:
        """Return running, done, or how it ended."""
        if (self.folder / ENDED).is_file():
            code = int((self.folder / ENDED).read_text(encoding="utf-8"))
            return {0: "done", 130: "stopped"}.get(code, "failed")
        return "running" if self.process() else "killed"

    def process(self) -> psutil.Process | None:
        """Return the process of a job that runs; None if it is gone."""
        try:
            known = json.loads((self.folder / PROCESS).read_text(encoding="utf-8"))
            process = psutil.Process(known["pid"])
            is_same = process.create_time() == known["created"] and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, psutil.Error):
            return None
        return process if is_same else None

    def output(self) -> str:
        """Return the end of the output; of a progress bar its last state."""
        path = self.folder / LOG
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return "\n".join(line.rpartition("\r")[2] for line in text[-TAIL:].split("\n"))

    def stop(self) -> None:
        """Interrupt the job as Ctrl-C does: a run saves its state."""
        if process := self.process():
            with suppress(ProcessLookupError):
                os.killpg(os.getpgid(process.pid), signal.SIGINT)


@dataclass(frozen=True)
class Jobs:
    """All jobs of a folder."""

    folder: Path

    def start(self, root: Path, commands: Sequence[Sequence[str]], order: Mapping[str, Any], name: str = "") -> Job:
        """Start commands of f5-tts one after the other, in a session of their own, with `root` as current folder."""
        job = Job(self.folder / (name or self.new_name()))
        job.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**order, "commands": [list(command) for command in commands]})
        write_atomically(job.folder / JOB, lambda part: part.write_text(text, encoding="utf-8"))
        started = subprocess.Popen(
            [sys.executable, "-m", "f5_tts.ui.worker", str(job.folder)],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        process = {"pid": started.pid, "created": psutil.Process(started.pid).create_time()}
        write_atomically(job.folder / PROCESS, lambda part: part.write_text(json.dumps(process), encoding="utf-8"))
        return job

    def new_name(self) -> str:
        """Return a name that nobody guesses."""
        return secrets.token_hex(8)

    def find(self, name: str) -> Job:
        """Return a job; raise ValueError if there is none of this name."""
        job = Job(self.folder / name)
        if not name.isalnum() or not (job.folder / JOB).is_file():
            raise ValueError(f"there is no job {name}")
        return job

    def all(self) -> list[Job]:
        """List all jobs, the newest first."""
        found = [path.parent for path in self.folder.glob(f"*/{JOB}")]
        return [Job(path) for path in sorted(found, key=lambda path: -path.stat().st_mtime)]
