"""Benchmark of starting: CPU seconds of imports and of commands that only print their help.

`python benchmarks/startup.py` prints a table: the least of the rounds, of a process from its start to its end.
CPU seconds depend little on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

IMPORTS = ("torch", "f5_tts", "f5_tts.api", "f5_tts.train.train", "f5_tts.train.train_rl")
HELPED = ("f5_tts.train.train", "f5_tts.train.train_rl", "f5_tts.infer.cli", "f5_tts.scripts.doctor")
COMMANDS = {f"import {name}": ["-c", f"import {name}"] for name in IMPORTS}
COMMANDS |= {f"{name} -h": ["-m", name, "-h"] for name in HELPED}


def cpu_seconds(arguments: list[str]) -> float:
    """Return the CPU seconds of a Python process with these arguments, and of those that it started."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {' '.join(arguments)} ended with exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print("| what | CPU s |\n|---|---:|")
    for title, arguments in COMMANDS.items():
        print(f"| {title} | {min(cpu_seconds(arguments) for _ in range(rounds)):.2f} |", flush=True)


if __name__ == "__main__":
    main()
