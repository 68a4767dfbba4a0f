"""The claim: the quick start's job by every algorithm, measured by a judge that was never a reward.

`make results`, or `python -m recipes.digits.results --seeds 1 2 3`: about 40 minutes a seed on two cores; a second run
goes on where it stopped. Leaves runs/results/results.md. All algorithms spend as many evaluations of the network in
training; beside them stands what the reward gives without training, the best of 8. Stage 1 trains only the width of the
Gaussian: it speaks as the base does, and is not measured again.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from f5_tts.config.load import compose_run
from f5_tts.config.schema import RLConfig, RLRunConfig, group_size
from f5_tts.entrypoint import command
from f5_tts.eval.results import Result, read_result
from f5_tts.eval.statistics import Interval, Quantity, Score, errors, paired_interval, similarities
from f5_tts.eval.table import RECOGNISERS
from f5_tts.rl.kernel import window
from f5_tts.rl.rollout import rollout_grid
from f5_tts.train.metrics_log import metric_rows
from recipes.digits.quickstart import BASE, Phase, evaluation, stage_1, stage_2

RUN = Path("runs/results")
SEEDS = [1, 2, 3]
BEST_OF = 8
SDE = ["rl.shared_noise=true", "rl.kl_weight=0.02", "optim.learning_rate=2e-4", "optim.max_updates=215"]
ALGORITHMS = {  # nft as in the quick start; the others with as many evaluations in all: 180 x 256 = 215 x 214
    "nft": [],
    "gaussian_grpo": SDE,
    "flow_grpo": SDE,
}
BOTH = "eval.recognisers=[pocketsphinx,whisper]"
CHANGES = ("change of error rate (95 %)", "relative, % (95 %)", "change of similarity (95 %)")
COSTS = ("evaluations per update", "updates", "minutes", "peak MiB", "cost at use")
HEADER = ("model", "guidance", "error rate", "similarity", *CHANGES, *COSTS)


def phases(seeds: Sequence[int], run: Path = RUN) -> list[Phase]:
    """Base once, and the best of its samples; then seed by seed stage 1, and from it each algorithm."""
    job = [evaluation(BASE, run / "base", BOTH), best_of_base(run / "best_of")]
    for seed in seeds:
        folder, seeded = run / f"seed_{seed}", f"optim.seed={seed}"
        job.append(stage_1(folder / "warmup", seeded))
        for algorithm in ALGORITHMS:
            job.append(stage_2(folder / "warmup", folder / algorithm, seeded, *settings_of(algorithm)))
            job.append(evaluation(folder / algorithm / "model_last.pt", folder / "eval" / algorithm, BOTH))
    return job


def best_of_base(out: Path) -> Phase:
    """At guidance 1, which the base's own evaluation chooses."""
    return Phase(
        title=f"the best of {BEST_OF} samples of the base, chosen by the reward",
        module="f5_tts.scripts.best_of",
        arguments=[
            *["-cn", "F5TTS_Mini_RL", f"eval.ckpt={BASE}", f"eval.best_of={BEST_OF}", "eval.cfg_strengths=[1]"],
            *[BOTH, f"eval.out={out}"],
        ],
        result=out / "scores.json",
    )


def settings_of(algorithm: str) -> list[str]:
    return [f"rl.algorithm={algorithm}", *ALGORITHMS[algorithm]]


# --- the table ---


def table(run: Path, recogniser: str, seeds: Sequence[int]) -> str:
    """Markdown: each model's mean over seeds against the base, on voices never seen, and what it cost."""
    base, best = read_result(run / "base"), read_result(run / "best_of")
    rows = [[*measured("base", [base], recogniser), *[""] * len(CHANGES), *[""] * (len(COSTS) - 1), "1"]]
    chosen = [*measured(f"base, best of {BEST_OF}", [best], recogniser), *changes(base, [best], recogniser)]
    rows.append([*chosen, *[""] * (len(COSTS) - 1), str(BEST_OF)])
    for name in ALGORITHMS:
        found = [read_result(run / f"seed_{seed}" / "eval" / name) for seed in seeds]
        row = [*measured(f"stage 2, {name}", found, recogniser), *changes(base, found, recogniser)]
        rows.append([*row, *costs(name, [run / f"seed_{seed}" / name for seed in seeds])])
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    which = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    title = f"Voices never seen, {which}, measured {RECOGNISERS[recogniser]}:"
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def measured(name: str, seeds: Sequence[Result], recogniser: str) -> list[str]:
    """Guidance of each seed, error rate and similarity over all."""
    scores = [result.unseen(recogniser) for result in seeds]
    guidance = ", ".join(f"{result.guidance[recogniser]:g}" for result in seeds)
    return [name, guidance, f"{100 * mean(scores, errors):.1f} %", f"{mean(scores, similarities):.3f}"]


def changes(base: Result, seeds: Sequence[Result], recogniser: str) -> list[str]:
    """Paired changes against the base, with intervals over items and seeds."""
    before, after = base.unseen(recogniser), [result.unseen(recogniser) for result in seeds]
    wrong, relative = (paired_interval(before, after, relative=relative) for relative in (False, True))
    return [change(wrong, 100.0), change(relative, 100.0), change(paired_interval(before, after, similarities), 1.0)]


def mean(runs: Sequence[Sequence[Score]], quantity: Quantity) -> float:
    """A quantity over all items of all seeds."""
    top, bottom = quantity([score for run in runs for score in run])
    return float(top.sum() / bottom.sum())


def change(interval: Interval, scale: float) -> str:
    digits = 1 if scale == 100.0 else 3
    low, high = (f"{scale * bound:+.{digits}f}" for bound in (interval.low, interval.high))
    return f"{scale * interval.value:+.{digits}f} ({low} to {high})"


# --- what training cost ---


def costs(algorithm: str, folders: Sequence[Path]) -> list[str]:
    """Of one run, the mean over seeds; memory the most of any. Minutes by the median update: no other work counts."""
    run = compose_run("F5TTS_Mini_RL", settings_of(algorithm), RLRunConfig)
    runs = [metric_rows(folder / "metrics.jsonl") for folder in folders]
    minutes = fmean(median(row["time/update"] for row in rows) * len(rows) / 60 for rows in runs)
    peak = max(row["mem/peak_mb"] for rows in runs for row in rows)
    each = evaluations(run.rl, run.datasets.batch_size_per_gpu * run.optim.grad_accumulation_steps)
    return [f"{each:.0f}", str(run.optim.max_updates), f"{minutes:.1f}", f"{peak:.0f}", "1"]


def evaluations(rl: RLConfig, prompts: int) -> float:
    """Evaluations of the network in one update, a backward pass counted as two; the mean over where a window falls.

    With rl.shared_noise the steps before the window are solved once a prompt. A slice is a forward and a backward pass,
    and a forward pass of the reference where there is one.
    """
    samples, alone, slices = prompts * group_size(rl), 0.0, rl.nft.num_times
    if rl.algorithm != "nft":
        inside = window(rollout_grid(rl), rl)
        slices = min(rl.window.size, len(inside))
        alone = fmean(inside[: len(inside) - slices + 1]) if rl.shared_noise else 0.0
    drawing = samples * (rl.steps - alone) + prompts * alone
    learning = samples * slices * (3 + (rl.kl_weight > 0))
    return (drawing + learning) * (2 if rl.cfg_strength > 0 else 1)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.digits.results", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 1 2 3")
    return parser


def main(argv: list[str]) -> bool:
    seeds = command_line().parse_args(argv).seeds
    signal.signal(signal.SIGINT, lambda number, frame: None)  # the command at work saves and ends; then so do we
    for phase in phases(seeds):
        phase.run()
    text = "\n".join(table(RUN, recogniser, seeds) for recogniser in ("whisper", "pocketsphinx"))
    (RUN / "results.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {RUN / 'results.md'}")
    return True


if __name__ == "__main__":
    command(main, sys.argv[1:])
