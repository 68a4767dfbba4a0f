"""What a run of stage 2 will hold in memory: `python -m f5_tts.scripts.budget`, then what train_rl would be given.

Computed from shapes alone, so it needs neither weights nor data nor a GPU. Megabytes and gigabytes: MiB are 2^20
bytes, GB 10^9.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from math import inf

from f5_tts.config.checks import require
from f5_tts.config.load import command_line, compose_run
from f5_tts.config.schema import RLRunConfig
from f5_tts.entrypoint import command
from f5_tts.estimate.memory import Part, budget, is_half, knobs, num_parameters, prompts, total
from f5_tts.train.accelerator import precision

# --- how much ---


# --- what is said of it ---


def table(parts: list[Part]) -> str:
    """One row a part, and the totals."""
    rows = [(part.what, part.where, part.num, part.key) for part in parts]
    rows += [("total", where, total(parts, where), "") for where in ("GPU", "CPU")]
    cells = [(what, where, f"{num / 2**20:,.0f}", key) for what, where, num, key in rows]
    lines = [f"| {what:33} | {where:5} | {mib:>6} | {key} |" for what, where, mib, key in cells]
    return "\n".join([f"| {'component':33} | where | {'MiB':>6} | key |", "| --- | --- | ---: | --- |", *lines])


def heading(run: RLRunConfig, seconds: float, processes: int = 1) -> str:
    num = prompts(run, seconds) * run.rl.mini_repeat_count
    guided = ", each twice for guidance" if run.rl.cfg_strength else ""
    digits = precision(run.optim) if is_half(run) else "single precision"
    shards = f", in shards on {processes} processes" if run.optim.shard else ""
    return f"{run.model.name}: clips of {seconds:g} s, {num} in a forward pass{guided}, {digits}{shards}"


def uncounted(run: RLRunConfig) -> str:
    """What the table leaves out."""
    unknown = [entry.name for entry in run.rl.rewards.providers if not num_parameters(entry)]
    more = f", and {', '.join(unknown)}, whose size is not known here" if unknown else ""
    return f"not counted: CUDA itself (about half a GB), what kernels need while they work{more}"


def check_above_zero(args: Namespace, *flags: str) -> None:
    """Raises ConfigError for a number on the command line that is not."""
    for flag in flags:
        value = getattr(args, flag)
        require(0 < value < inf, f"--{flag}={value:g} is not allowed; allowed: a number above 0")


def main(argv: list[str]) -> bool:
    parser = command_line("F5TTS_RL")
    parser.add_argument("--seconds", type=float, help="the longest clip, s; default: datasets.max_seconds")
    parser.add_argument("--limit", type=float, default=8.0, help="memory of the GPU, GB; default: 8")
    parser.add_argument("--processes", type=int, default=2, help="that share the run with optim.shard=true; default: 2")
    args = parser.parse_intermixed_args(argv)
    run = compose_run(args.config_name, args.overrides, RLRunConfig)
    if args.seconds is None:
        args.seconds = run.datasets.max_seconds
    check_above_zero(args, "seconds", "limit")
    require(args.processes > 1, f"--processes={args.processes} is not allowed; allowed: 2 or more")
    parts = budget(run, args.seconds, args.processes)
    used = total(parts, "GPU") / 1e9
    print(f"{heading(run, args.seconds, args.processes)}\n{table(parts)}\n{uncounted(run)}")
    print(f"GPU: {used:.2f} GB of {args.limit:g} GB")
    if used > args.limit:
        print("it would spare on the GPU, each by itself:")
        for num, change in knobs(args.config_name, args.overrides, run, args.seconds, args.processes):
            print(f"  {num / 1e9:5.2f} GB  {change}")
    return True


if __name__ == "__main__":
    command(main, sys.argv[1:])
