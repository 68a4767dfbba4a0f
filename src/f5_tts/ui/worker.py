"""Process of a job: runs its commands, keeps their output, and writes how they ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from f5_tts.files import write_atomically
from f5_tts.ui.jobs import ENDED, JOB, LOG


def main(folder: Path) -> None:
    """Run the commands of a job until one fails; a signal is for the command, which ends by it."""
    signal.signal(signal.SIGINT, lambda number, frame: None)
    commands = json.loads((folder / JOB).read_text(encoding="utf-8"))["commands"]
    code = 0
    with (folder / LOG).open("a", encoding="utf-8") as log:
        for command in commands:
            done = subprocess.run(
                [sys.executable, "-m", "f5_tts", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
            code = done.returncode
            if code:
                break
    write_atomically(folder / ENDED, lambda part: part.write_text(str(code), encoding="utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
