"""Benchmark of a run on two cores: seconds of an update by processes and threads, with the commands that users type.

`python benchmarks/cores.py` trains the shipped model of the digits by `draft` and by `nft` as their configs say: in one
process with one thread, in one with two threads, and in two processes with one thread each, which torchrun starts. All
ways learn from as many samples an update. The ways take turns. Of a run the median of the updates after the first two
counts, and of the rounds the least. This is wall time: it needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from f5_tts.report.metric_rows import metric_rows

BASE = "pretrained/F5TTS_Mini/model_800.safetensors"
COMMON = [f"ckpts.init_from={BASE}", "eval.every_updates=0", "rl.stop_when=null", "optim.num_warmup_updates=0"]
ROWS = {
    "draft": ["-cn", "F5TTS_Mini_Draft"],
    "nft": ["-cn", "F5TTS_Mini_RL", "model.output_dist=deterministic", "model.use_rl_head=false"],
}
PROMPTS = {"draft": 12, "nft": 4}  # of an update of all processes: datasets.batch_size_per_gpu of the configs
UNCOUNTED = 2  # first updates of a run, which also fill caches


@dataclass(frozen=True)
class Way:
    """Number of processes of a run, and of threads of each."""

    processes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads}"

    def command(self, row: str, updates: int, folder: Path) -> list[str]:
        """Build the command line of a run."""
        several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        launcher = several if self.processes > 1 else []
        settings = [f"datasets.batch_size_per_gpu={PROMPTS[row] // self.processes}", f"optim.max_updates={updates}"]
        module = ["-m", "f5_tts.train.train_rl", *ROWS[row], *COMMON, *settings, f"ckpts.save_dir={folder}"]
        return [sys.executable, *launcher, *module]

    def seconds(self, row: str, updates: int) -> float:
        """Run the command and return the median wall time of an update."""
        threads = {"OMP_NUM_THREADS": str(self.threads)}
        with TemporaryDirectory() as folder:
            command = self.command(row, updates, Path(folder))
            done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{' '.join(command)}\nfailed:\n{done.stderr[-2000:]}")
            rows = metric_rows(Path(folder) / "metrics.jsonl")
        return median(values["time/update"] for values in rows if values["update"] > UNCOUNTED)


WAYS = [Way(1, 1), Way(1, 2), Way(2, 1)]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--updates", type=int, default=14, help="updates of a run")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each way; the fastest counts")
    arguments = parser.parse_args()
    print(f"| seconds an update | {' | '.join(map(str, WAYS))} | 1 x 1 / 2 x 1 |\n|---|{'---:|' * (len(WAYS) + 1)}")
    for row in arguments.rows:
        rounds = [{way: way.seconds(row, arguments.updates) for way in WAYS} for _ in range(arguments.rounds)]
        least = {way: min(found[way] for found in rounds) for way in WAYS}
        ratio = least[WAYS[0]] / least[WAYS[2]]
        print(f"| {row} | {' | '.join(f'{value:.2f}' for value in least.values())} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
