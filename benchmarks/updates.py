"""Benchmark of updates of stage 2: CPU seconds by algorithm, precision and solver steps, and how they grow with sizes.

`python benchmarks/updates.py` prints tables for a small model (dim 256, 6 blocks, clips of 300 frames, guidance 2,
random weights and rewards). The first has the CPU seconds of one update by the number of solver steps; `f5r` does what
the published code does, and keeps the gradients of all steps. With `--exponents` it says how time grows with sizes: 1
means that twice the size takes twice as long. `--roof` prints what matrix products of these shapes reach here. All of a
table is measured in one process with one thread, the ways in turn, and the least of the rounds counts: with "lean" an
update without the anchor, as three of four are.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.doctor.update import CHANCE, RandomRewards
from f5_tts.entrypoint import tune_malloc
from f5_tts.model.build import build_model
from f5_tts.model.snapshot import Snapshot
from f5_tts.rl.grpo import PolicyLoss, collect_experience
from f5_tts.types import SpeechBatch

TOKENS, SYMBOLS = 60, 256
SIZES = {"dim": 256, "depth": 6, "frames": 300, "group": 2, "steps": 16}
AXES = {"frames": (150, 300, 600), "group": (2, 4, 8), "dim": (128, 256, 512), "depth": (3, 6, 12), "steps": (4, 8, 16)}
WAYS = {
    "gaussian_grpo": ["rl.algorithm=gaussian_grpo"],
    "gaussian_grpo, bf16": ["rl.algorithm=gaussian_grpo", "optim.mixed_precision=bf16"],
    "gaussian_grpo, bf16, lean": [
        *("rl.algorithm=gaussian_grpo", "optim.mixed_precision=bf16", "rl.cfg_grad_uncond=false", "rl.anchor_every=4")
    ],
    "nft": ["rl.algorithm=nft", "rl.shared_noise=false", "rl.nft.old_decay=0"],
    "nft, bf16 rollouts": [
        *("rl.algorithm=nft", "rl.shared_noise=false", "rl.nft.old_decay=0", "rl.rollout_precision=bf16")
    ],
    "f5r": ["rl.algorithm=f5r", "rl.train_sigma=true", "rl.shared_noise=false"],
    "f5r, bf16": [*("rl.algorithm=f5r", "rl.train_sigma=true", "rl.shared_noise=false", "optim.mixed_precision=bf16")],
}  # name in the table -> what differs from F5TTS_RL


def update_of(way: str, **changes: int) -> Callable[[], None]:
    """Build a model and a prompt, and return a function that makes one update without the optimizer's step."""
    size = {**SIZES, **changes}
    given = [f"model.arch.{name}={size[name]}" for name in ("dim", "depth")]
    given += [f"model.arch.heads={size['dim'] // 64}", "model.arch.text_dim=128", f"rl.steps={size['steps']}"]
    given += [f"rl.mini_repeat_count={size['group']}", "rl.cfg_strength=2.0", *WAYS[way]]
    cfg = compose_config("F5TTS_RL", given, RLTrainConfig)
    torch.manual_seed(0)
    policy = build_model(cfg.model, Vocabulary([chr(i) for i in range(SYMBOLS)])).eval()
    loss = PolicyLoss(cfg.rl, Snapshot(policy))
    is_half, batch, updates = cfg.optim.mixed_precision == "bf16", prompt_of(size["frames"]), iter(range(10**6))

    def run() -> None:
        update = next(updates)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            drawn = collect_experience(policy, [[batch]], RandomRewards(), by_chance, cfg.rl, update=update)
            for output in loss(policy, next(drawn)):
                output.loss.backward()
        policy.zero_grad()

    return run


def by_chance(components: Mapping[str, Tensor], group_ids: Tensor, target: Tensor) -> Tensor:
    """Return the random scores as advantages."""
    return components[CHANCE]


def prompt_of(frames: int) -> SpeechBatch:
    """Make one clip of noise with a text."""
    lens = torch.tensor([frames])
    return SpeechBatch(
        mel=torch.randn(1, frames, 100),
        lens=lens,
        prompt_lens=lens // 5,
        text=torch.randint(SYMBOLS, (1, TOKENS)),
        target_texts=[""],
        group_ids=torch.zeros_like(lens),
        audio=[torch.zeros(1)],
    )


def least_seconds(runs: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the least CPU seconds of each way over the rounds, in which the ways take turns, after one to warm up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            started = time.process_time()
            run()
            found[name].append(time.process_time() - started)
    return {name: min(seconds[1:]) for name, seconds in found.items()}


def by_steps(steps: list[int], rounds: int) -> None:
    """Print the CPU seconds of an update by the number of solver steps."""
    print(f"| steps | {' | '.join(WAYS)} | f5r, bf16 / lean |\n|---|{'---:|' * (len(WAYS) + 1)}")
    for num in steps:
        seconds = least_seconds({way: update_of(way, steps=num) for way in WAYS}, rounds)
        ratio = seconds["f5r, bf16"] / seconds["gaussian_grpo, bf16, lean"]
        print(f"| {num} | {' | '.join(f'{value:.2f}' for value in seconds.values())} | {ratio:.1f} |", flush=True)


def exponents(rounds: int) -> None:
    """Print the exponent of an update's time from each size of an axis to the next."""
    print("| axis | sizes | CPU s | exponents |\n|---|---|---|---|")
    for axis, sizes in AXES.items():
        runs = {str(size): update_of("nft", **{axis: size}) for size in sizes}
        seconds = list(least_seconds(runs, rounds).values())
        grown = [math.log(seconds[i + 1] / seconds[i]) / math.log(sizes[i + 1] / sizes[i]) for i in (0, 1)]
        parts = ", ".join(map(str, sizes)), ", ".join(f"{value:.2f}" for value in seconds)
        print(f"| {axis} | {parts[0]} | {parts[1]} | {', '.join(f'{value:.2f}' for value in grown)} |", flush=True)


def roof(rounds: int) -> None:
    """Print the speed of matrix products at the shapes of the model, in GFLOP/s."""
    rows, width = 1200, SIZES["dim"]
    flops = 2 * rows * width * 2 * width
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.randn(rows, width).to(dtype), torch.randn(2 * width, width).to(dtype)
        seconds = least_seconds({"product": lambda x=x, weight=weight: repeat(x, weight)}, rounds)["product"]
        print(f"matrix products in {dtype}: {100 * flops / seconds / 1e9:.0f} GFLOP/s")


def repeat(x: Tensor, weight: Tensor) -> None:
    """Multiply a hundred times."""
    for _ in range(100):
        F.linear(x, weight)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds; the least counts")
    parser.add_argument("--steps", type=int, nargs="*", default=[4, 16, 30], help="solver steps; none: no such table")
    parser.add_argument("--exponents", action="store_true", help="print how time grows with sizes")
    parser.add_argument("--roof", action="store_true", help="print the speed of matrix products")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tune_malloc()  # as every command does
    if arguments.roof:
        roof(arguments.rounds)
    if arguments.steps:
        by_steps(arguments.steps, arguments.rounds)
    if arguments.exponents:
        exponents(arguments.rounds)


if __name__ == "__main__":
    main()
