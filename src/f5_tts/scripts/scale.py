"""Memory and communication of stage 2 on 1, 8, 64 and 512 GPUs: `python -m f5_tts.scripts.scale`.

The command takes the arguments of train_rl. It computes sizes from tensor shapes, and counts the passes of an update by
running the real update code with a network that only counts its calls. GB are 10^9 bytes. The bandwidths are
assumptions: pass those of your machine.
"""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("scale")

from argparse import Namespace

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.estimate.communication import GPUS_PER_NODE, SHARDED_OVERRIDES, WORLD_SIZES, CommunicationEstimate
from f5_tts.scripts.budget import heading

HEAD = "| GPUs | rollouts an update | held, GB | sent, GB | s | held in shards, GB | sent in shards, GB | s |"


def table(estimate: CommunicationEstimate, inside: float, between: float) -> str:
    """Format a Markdown table with a row for each number of GPUs, at bandwidths in GB/s."""
    lines = [HEAD, "|" + " ---: |" * (HEAD.count("|") - 1)]
    for world_size in WORLD_SIZES:
        speed = 1e9 * (inside if world_size <= GPUS_PER_NODE else between)
        cells = [f"{world_size}", f"{world_size * estimate.rollouts:,}", gigabytes(estimate.bytes_held())]
        cells += cost(estimate.bytes_sent(world_size), speed)
        if world_size > 1:
            cells += [
                gigabytes(estimate.bytes_held_sharded(world_size)),
                *cost(estimate.bytes_sent_sharded(world_size), speed),
            ]
        lines.append(f"| {' | '.join(cells + ['-'] * (8 - len(cells)))} |")
    return "\n".join(lines)


def gigabytes(num: int | float) -> str:
    """Format a number of bytes in GB."""
    return f"{num / 1e9:,.2f}"


def cost(num: int | float, speed: float) -> list[str]:
    """Format a number of bytes in GB, and the seconds of its transfer at `speed` bytes/s."""
    return [gigabytes(num), f"{num / speed:,.3f}"]


def summary(estimate: CommunicationEstimate) -> str:
    """Describe the sizes and counts from which the table is computed."""
    return (
        f"weights {gigabytes(estimate.weights)} GB; gradients {gigabytes(estimate.gradients)} GB in {estimate.tensors} "
        "tensors\n"
        f"an update of one process: {estimate.num_forward:g} forward passes without gradients, "
        f"{estimate.num_backward:g} forward and backward; {estimate.reward_bytes() / 1e3:,.1f} kB of rewards to each "
        "other process"
    )


def run(arguments: tuple[Namespace, RLTrainConfig]) -> bool:
    """Run the command: print the estimate as a table."""
    args, cfg = arguments
    sharded_cfg = compose_config(args.config_name, args.overrides + SHARDED_OVERRIDES, RLTrainConfig)
    estimate = CommunicationEstimate(cfg, sharded_cfg, args.seconds)
    print(f"{heading(cfg, args.seconds)}\n{summary(estimate)}\n{table(estimate, args.inside, args.between)}")
    return True
