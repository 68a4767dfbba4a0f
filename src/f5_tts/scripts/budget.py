"""Memory estimate of a stage-2 run: `python -m f5_tts.scripts.budget`, with the arguments of train_rl.

The estimate is computed from tensor shapes alone, so it needs no weights, no data and no GPU. MiB are 2^20 bytes, GB
10^9 bytes.
"""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("budget")

from argparse import Namespace

from f5_tts.config.schema import RLTrainConfig
from f5_tts.estimate.memory import (
    MemoryItem,
    budget,
    differentiated_rewards,
    is_mixed_precision,
    num_parameters,
    prompts_per_batch,
    suggest_savings,
    total_bytes,
)
from f5_tts.rewards.registry import provider_attribute
from f5_tts.train.accelerator import precision


def table(items: list[MemoryItem]) -> str:
    """Format a Markdown table with a row for each item, and the totals."""
    rows = [(item.name, item.device, item.num_bytes, item.key) for item in items]
    rows += [("total", device, total_bytes(items, device), "") for device in ("GPU", "CPU")]
    cells = [(name, device, f"{num / 2**20:,.0f}", key) for name, device, num, key in rows]
    lines = [f"| {name:33} | {device:5} | {mib:>6} | {key} |" for name, device, mib, key in cells]
    return "\n".join([f"| {'component':33} | where | {'MiB':>6} | key |", "| --- | --- | ---: | --- |", *lines])


def heading(cfg: RLTrainConfig, seconds: float, processes: int = 1) -> str:
    """Describe the model, the batch, the precision and the sharding of the run in one line."""
    num = prompts_per_batch(cfg, seconds) * cfg.rl.mini_repeat_count
    guided = ", each twice for guidance" if cfg.rl.cfg_strength else ""
    digits = precision(cfg.optim) if is_mixed_precision(cfg) else "single precision"
    shards = f", sharded over {processes} processes" if cfg.optim.shard else ""
    return f"{cfg.model.name}: clips of {seconds:g} s, {num} in a forward pass{guided}, {digits}{shards}"


def uncounted(cfg: RLTrainConfig) -> str:
    """Describe what the table does not include."""
    unknown_rewards = [entry.name for entry in cfg.rl.rewards.providers if not num_parameters(entry)]
    unknown_rewards += [
        f"the loss of {name}"
        for name in differentiated_rewards(cfg).values()
        if provider_attribute(name, "loss_mib", None) is None
    ]
    more = f", and {', '.join(unknown_rewards)}, whose size is not known here" if unknown_rewards else ""
    return f"not included: the CUDA context (about 0.5 GB) and workspaces of kernels{more}"


def run(arguments: tuple[Namespace, RLTrainConfig]) -> bool:
    """Run the command: print the estimate and, if it exceeds --limit, the changes that would reduce it."""
    args, cfg = arguments
    items = budget(cfg, args.seconds, args.processes)
    used_gb = total_bytes(items, "GPU") / 1e9
    print(f"{heading(cfg, args.seconds, args.processes)}\n{table(items)}\n{uncounted(cfg)}")
    print(f"GPU: {used_gb:.2f} GB of {args.limit:g} GB")
    if used_gb > args.limit:
        print("changes that would save GPU memory, each on its own:")
        for num, change in suggest_savings(args.config_name, args.overrides, cfg, args.seconds, args.processes):
            print(f"  {num / 1e9:5.2f} GB  {change}")
    return True
