"""Benchmark of rewards: clips of 5 s scored per second, for each provider, one clip per call and several per call.

`python benchmarks/rewards.py` prints a table: clips per second of wall time for 32 clips in 32 calls, 4 calls and one
call, and the time of the one call divided by that of the 32. Networks have their published sizes. Weights that are not
shipped are random, which takes as long. The clips share one reference, whose embedding is cached, as in training from a
prompt's second sample on. Every provider runs in a separate process; run the benchmark on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from f5_tts.entrypoint import tune_malloc
from f5_tts.rewards.registry import build_local_provider
from f5_tts.types import RewardInput, RewardProvider

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/ holds the functions that make model folders

SAMPLE_RATE, SECONDS = 24_000, 5
NUM, BATCHES = 32, (1, 8, 32)  # clips, and batch sizes


def wespeaker_sim(folder: Path, threads: int) -> dict[str, Any]:
    """Make a model folder with random weights and return the provider's config."""
    from tests.rewards.wespeaker import make_directory

    return {"model_dir": str(make_directory(folder))}


def funasr_wer(folder: Path, threads: int) -> dict[str, Any]:
    """Make a model folder of the published size with random weights and return the provider's config."""
    from tests.rewards.sensevoice import PUBLISHED, make_directory

    make_directory(folder, PUBLISHED)
    return {"model_id": str(folder)}


CONFIGS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "wespeaker_sim": wespeaker_sim,
    "voice_sim": lambda folder, threads: {},
    "digits_wer": lambda folder, threads: {"workers": threads},
    "funasr_wer": funasr_wer,
}  # provider -> its config in a run; model folders are made in `folder`


def clips() -> list[Tensor]:
    """Make tones whose loudness follows noise, about as fast as syllables; they are always the same."""
    draw = torch.Generator().manual_seed(0)
    pitch = 100 + 300 * torch.rand(NUM, 1, generator=draw)
    tones = torch.sin(2 * torch.pi * pitch * torch.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE)
    loudness = torch.randn(NUM, 1, 4 * SECONDS, generator=draw).abs()
    return list(0.2 * tones * interpolate(loudness, SECONDS * SAMPLE_RATE, mode="linear")[:, 0])


def inputs() -> list[RewardInput]:
    """Make the reward inputs, all with the first clip as reference."""
    reference, *_ = audio = clips()
    fields = {"text": "one two three", "language": "en", "reference_audio": reference}
    return [RewardInput(audio=clip, sample_rate=SAMPLE_RATE, **fields) for clip in audio]


def measure(provider: RewardProvider, rounds: int) -> list[float]:
    """Measure the seconds to score all clips for each batch size: the best of `rounds` alternating rounds."""
    items = inputs()
    provider.score(items[:2])
    results = [[seconds(provider, items, batch) for batch in BATCHES] for _ in range(rounds)]
    return [min(times) for times in zip(*results, strict=True)]


def seconds(provider: RewardProvider, items: list[RewardInput], batch: int) -> float:
    """Measure the seconds to score all clips with this batch size."""
    started = time.perf_counter()
    for start in range(0, len(items), batch):
        provider.score(items[start : start + batch])
    return time.perf_counter() - started


def job(name: str, threads: int, rounds: int) -> list[float]:
    """Run `measure` in this process."""
    torch.set_num_threads(threads)
    tune_malloc()  # as every command does
    with TemporaryDirectory() as folder:
        provider = build_local_provider(name, CONFIGS[name](Path(folder), threads), f"--providers {name}")
        return measure(provider, rounds)


def in_its_own_process(name: str, threads: int, rounds: int) -> list[float]:
    """Run `measure` in a separate process; exit with a message if it fails."""
    command = [sys.executable, __file__, "--job", name, "--threads", str(threads), "--rounds", str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name} does not run here; why is said above, and --providers chooses others")
    return json.loads(done.stdout.splitlines()[-1])


def table(providers: list[str], threads: int, rounds: int) -> None:
    """Print the table, one row per provider."""
    print("| provider | " + " | ".join(f"clips/s, {batch} a call" for batch in BATCHES) + " | one call / 32 calls |")
    print("|---|" + "---|" * (len(BATCHES) + 1))
    for name in providers:
        spent = in_its_own_process(name, threads, rounds)
        speeds = " | ".join(f"{NUM / elapsed:.2f}" for elapsed in spent)
        print(f"| {name} | {speeds} | {spent[-1] / spent[0]:.2f} |", flush=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--providers", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--threads", type=int, default=1, help="of torch; digits_wer has as many processes")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each number in a call; the fastest counts")
    parser.add_argument("--job", choices=list(CONFIGS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(job(arguments.job, arguments.threads, arguments.rounds)))
    else:
        table(arguments.providers, arguments.threads, arguments.rounds)


if __name__ == "__main__":
    main()
