"""Train the quick start's model with each algorithm and measure it with a recogniser that was never a reward.

`make results`, or `python -m recipes.digits.results --seeds 1 2 3`, takes about 40 minutes per seed on two CPU cores
and resumes after an interruption. It writes runs/results/results.md. Training uses the same number of network
evaluations for each algorithm. The table also shows best-of-8 sampling, which needs no training. Stage 1 trains only
the width of the Gaussian: it has the mean velocity of the base model, and is not evaluated separately.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLConfig, RLTrainConfig, group_size
from f5_tts.entrypoint import run_command
from f5_tts.eval.results import Result, read_result
from f5_tts.eval.statistics import Interval, RatioMetric, Score, paired_interval, similarities, word_errors
from f5_tts.eval.table import ASR_TITLES, similarity_title
from f5_tts.rl.kernel import trainable_steps
from f5_tts.rl.rollout import rollout_grid
from f5_tts.train.metrics_log import metric_rows
from recipes.digits.quickstart import BASE, Phase, evaluation, stage_1, stage_2

RUN_DIR = Path("runs/results")
SEEDS = [1, 2, 3]
BEST_OF = 8
SDE_OVERRIDES = ["rl.shared_noise=true", "rl.kl_weight=0.02", "optim.learning_rate=2e-4", "optim.max_updates=215"]
# nft as in the quick start; the others with the same number of evaluations in total: 180 x 256 = 215 x 214
ALGORITHMS = {
    "nft": [],
    "gaussian_grpo": SDE_OVERRIDES,
    "flow_grpo": SDE_OVERRIDES,
}
BOTH_ASR = "eval.recognisers=[pocketsphinx,whisper]"
CHANGES = ("change of error rate (95 %)", "relative, % (95 %)", "change of similarity (95 %)")
COSTS = ("evaluations per update", "updates", "minutes", "peak MiB", "inference cost")
HEADER = ("model", "guidance", "error rate", "{similarity}", *CHANGES, *COSTS)


def phases(seeds: Sequence[int], run_dir: Path = RUN_DIR) -> list[Phase]:
    """List the phases: evaluate the base and its best-of-N, then train stage 1 and each algorithm for each seed."""
    job = [evaluation(BASE, run_dir / "base", BOTH_ASR), best_of_base(run_dir / "best_of")]
    for seed in seeds:
        folder, seeded = run_dir / f"seed_{seed}", f"optim.seed={seed}"
        job.append(stage_1(folder / "warmup", seeded))
        for algorithm in ALGORITHMS:
            job.append(stage_2(folder / "warmup", folder / algorithm, seeded, *settings_of(algorithm)))
            job.append(evaluation(folder / algorithm / "model_last.pt", folder / "eval" / algorithm, BOTH_ASR))
    return job


def best_of_base(out: Path) -> Phase:
    """Build the phase for best-of-N of the base model, at guidance 1, which its own evaluation selects."""
    return Phase(
        title=f"the best of {BEST_OF} samples of the base, chosen by the reward",
        module="f5_tts.scripts.best_of",
        arguments=[
            *["-cn", "F5TTS_Mini_RL", f"eval.ckpt={BASE}", f"eval.best_of={BEST_OF}", "eval.cfg_strengths=[1]"],
            *[BOTH_ASR, f"eval.out={out}"],
        ],
        result=out / "scores.json",
    )


def settings_of(algorithm: str) -> list[str]:
    """Return the config overrides of the algorithm."""
    return [f"rl.algorithm={algorithm}", *ALGORITHMS[algorithm]]


# --- the table ---


def table(run_dir: Path, asr: str, seeds: Sequence[int]) -> str:
    """Format a Markdown table of unseen speakers: the mean of each model over seeds, its change, and its cost."""
    base, best = read_result(run_dir / "base"), read_result(run_dir / "best_of")
    rows = [[*score_cells("base", [base], asr), *[""] * len(CHANGES), *[""] * (len(COSTS) - 1), "1"]]
    best_row = [*score_cells(f"base, best of {BEST_OF}", [best], asr), *changes(base, [best], asr)]
    rows.append([*best_row, *[""] * (len(COSTS) - 1), str(BEST_OF)])
    for name in ALGORITHMS:
        results = [read_result(run_dir / f"seed_{seed}" / "eval" / name) for seed in seeds]
        row = [*score_cells(f"stage 2, {name}", results, asr), *changes(base, results, asr)]
        rows.append([*row, *costs(name, [run_dir / f"seed_{seed}" / name for seed in seeds])])
    titles = [name.format(similarity=similarity_title(base.speaker_judge)) for name in HEADER]
    lines = [titles, ["---"] * len(HEADER), *rows]
    which = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    title = f"Unseen speakers, {which}, measured {ASR_TITLES[asr]}:"
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def score_cells(name: str, seeds: Sequence[Result], asr: str) -> list[str]:
    """Format the guidance strength of each seed, and the error rate and similarity over all seeds."""
    scores = [result.unseen(asr) for result in seeds]
    guidance = ", ".join(f"{result.guidance[asr]:g}" for result in seeds)
    return [name, guidance, f"{100 * mean(scores, word_errors):.1f} %", f"{mean(scores, similarities):.3f}"]


def changes(base: Result, seeds: Sequence[Result], asr: str) -> list[str]:
    """Format the paired changes against the base model, with intervals over items and seeds."""
    before, after = base.unseen(asr), [result.unseen(asr) for result in seeds]
    absolute, relative = (paired_interval(before, after, relative=relative) for relative in (False, True))
    return [change(absolute, 100.0), change(relative, 100.0), change(paired_interval(before, after, similarities), 1.0)]


def mean(seeds: Sequence[Sequence[Score]], metric: RatioMetric) -> float:
    """Compute a ratio metric over all items of all seeds."""
    top, bottom = metric([score for scores in seeds for score in scores])
    return float(top.sum() / bottom.sum())


def change(interval: Interval, scale: float) -> str:
    """Format a change and its interval, multiplied by `scale`."""
    digits = 1 if scale == 100.0 else 3
    low, high = (f"{scale * bound:+.{digits}f}" for bound in (interval.low, interval.high))
    return f"{scale * interval.value:+.{digits}f} ({low} to {high})"


# --- training cost ---


def costs(algorithm: str, folders: Sequence[Path]) -> list[str]:
    """Format the training cost of one run: the mean over seeds, and the highest peak memory of any seed.

    Minutes are the median update time multiplied by the number of updates, so that other load on the machine counts
    little.
    """
    cfg = compose_config("F5TTS_Mini_RL", settings_of(algorithm), RLTrainConfig)
    metrics = [metric_rows(folder / "metrics.jsonl") for folder in folders]
    minutes = fmean(median(row["time/update"] for row in rows) * len(rows) / 60 for rows in metrics)
    peak = max(row["mem/peak_mb"] for rows in metrics for row in rows)
    evaluations_per_update = evaluations(cfg.rl, cfg.datasets.batch_size_per_gpu * cfg.optim.grad_accumulation_steps)
    return [f"{evaluations_per_update:.0f}", str(cfg.optim.max_updates), f"{minutes:.1f}", f"{peak:.0f}", "1"]


def evaluations(rl: RLConfig, prompts: int) -> float:
    """Count the network evaluations of one update; a backward pass counts as two.

    The count is the mean over all positions of the window. With rl.shared_noise, the steps before the window are solved
    once per prompt. A slice is a forward and a backward pass, and a forward pass of the reference if there is one.
    """
    samples, shared_steps, slices = prompts * group_size(rl), 0.0, rl.nft.num_times
    if rl.algorithm != "nft":
        candidates = trainable_steps(rollout_grid(rl), rl)
        slices = min(rl.window.size, len(candidates))
        shared_steps = fmean(candidates[: len(candidates) - slices + 1]) if rl.shared_noise else 0.0
    drawing = samples * (rl.steps - shared_steps) + prompts * shared_steps
    learning = samples * slices * (3 + (rl.kl_weight > 0))
    return (drawing + learning) * (2 if rl.cfg_strength > 0 else 1)


def command_line() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(prog="python -m recipes.digits.results", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 1 2 3")
    return parser


def main(argv: list[str]) -> bool:
    """Run the command: all phases, then the tables of both recognisers."""
    seeds = command_line().parse_args(argv).seeds
    # the running command saves and stops; its exit code then ends this one
    signal.signal(signal.SIGINT, lambda number, frame: None)
    for phase in phases(seeds):
        phase.run()
    text = "\n".join(table(RUN_DIR, asr, seeds) for asr in ("whisper", "pocketsphinx"))
    (RUN_DIR / "results.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {RUN_DIR / 'results.md'}")
    return True


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
