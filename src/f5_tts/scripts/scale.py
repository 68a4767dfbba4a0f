"""What stage 2 holds and sends on 1, 8, 64, 512 GPUs: `python -m f5_tts.scripts.scale`, then what train_rl would get.

Computed from shapes, and from the passes that the very code of an update makes with a network that only counts them.
GB are 10^9 bytes. Speeds are assumptions: give those of your machine.
"""

from __future__ import annotations

import sys

from f5_tts.config.checks import require
from f5_tts.config.load import command_line, compose_run
from f5_tts.config.schema import RLRunConfig
from f5_tts.entrypoint import command
from f5_tts.estimate.communication import IN_SHARDS, NODE, SIZES, Scale
from f5_tts.scripts.budget import check_above_zero, heading

HEAD = "| GPUs | rollouts an update | held, GB | sent, GB | s | held in shards, GB | sent in shards, GB | s |"


def table(scale: Scale, inside: float, between: float) -> str:
    """A row for each number of GPUs, at speeds in GB/s."""
    lines = [HEAD, "|" + " ---: |" * (HEAD.count("|") - 1)]
    for world in SIZES:
        speed = 1e9 * (inside if world <= NODE else between)
        cells = [f"{world}", f"{world * scale.rollouts:,}", gigabytes(scale.held())]
        cells += cost(scale.sent(world), speed)
        if world > 1:
            cells += [gigabytes(scale.held_in_shards(world)), *cost(scale.sent_in_shards(world), speed)]
        lines.append(f"| {' | '.join(cells + ['-'] * (8 - len(cells)))} |")
    return "\n".join(lines)


def gigabytes(num: int | float) -> str:
    return f"{num / 1e9:,.2f}"


def cost(num: int | float, speed: float) -> list[str]:
    """Gigabytes, and the seconds they take."""
    return [gigabytes(num), f"{num / speed:,.3f}"]


def summary(scale: Scale) -> str:
    """What the table is made of."""
    return (
        f"weights {gigabytes(scale.weights)} GB; gradients {gigabytes(scale.gradients)} GB in {scale.tensors} tensors\n"
        f"an update of one process: {scale.asked:g} forward passes without gradients, {scale.learnt:g} forward and "
        f"backward; {scale.rewards() / 1e3:,.1f} kB of rewards to each other process"
    )


def main(argv: list[str]) -> bool:
    parser = command_line("F5TTS_RL")
    parser.add_argument("--seconds", type=float, help="the longest clip, s; default: datasets.max_seconds")
    parser.add_argument("--inside", type=float, default=200.0, help="GB/s between GPUs of a node; default: 200")
    parser.add_argument("--between", type=float, default=50.0, help="GB/s between nodes of 8 GPUs; default: 50")
    args = parser.parse_intermixed_args(argv)
    run = compose_run(args.config_name, args.overrides, RLRunConfig)
    if args.seconds is None:
        args.seconds = run.datasets.max_seconds
    check_above_zero(args, "seconds", "inside", "between")
    require(not run.optim.shard, "optim.shard=true is compared with optim.shard=false here: leave it out")
    shards = compose_run(args.config_name, args.overrides + IN_SHARDS, RLRunConfig)
    scale = Scale(run, shards, args.seconds)
    print(f"{heading(run, args.seconds)}\n{summary(scale)}\n{table(scale, args.inside, args.between)}")
    return True


if __name__ == "__main__":
    command(main, sys.argv[1:])
