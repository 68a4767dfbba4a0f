"""The claim: the quick start's job with 3 seeds and both algorithms, measured by a judge that was never a reward.

`make results`, or `python -m f5_tts.scripts.results`: a good hour on two cores; a second run goes on where it stopped.
Leaves runs/results/results.md. Stage 1 trains only the width of the Gaussian: it speaks as the base does, and is not
measured again.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from f5_tts.command import command
from f5_tts.eval.results import Result, read_result
from f5_tts.eval.statistics import Interval, Quantity, Score, errors, paired_interval, similarities
from f5_tts.eval.table import RECOGNISERS
from f5_tts.scripts.quickstart import BASE, Phase, evaluation, stage_1, stage_2

RUN = Path("runs/results")
SEEDS = (1, 2, 3)
ALGORITHMS = {  # the quick start's; the other's settings were found on an earlier base
    "nft": [],
    "gaussian_grpo": ["rl.shared_noise=true", "rl.kl_weight=0.02", "optim.learning_rate=2e-4"],
}
BOTH = "eval.recognisers=[pocketsphinx,whisper]"
CHANGES = ("change of error rate (95 %)", "relative, % (95 %)", "change of similarity (95 %)")
HEADER = ("model", "guidance", "error rate", "similarity", *CHANGES)


def phases(run: Path = RUN) -> list[Phase]:
    """Base once; stage 1 once a seed; from it each algorithm."""
    folders = {f"optim.seed={seed}": run / f"seed_{seed}" for seed in SEEDS}
    job = [evaluation(BASE, run / "base", BOTH)]
    job += [stage_1(folder / "warmup", seeded) for seeded, folder in folders.items()]
    for algorithm, settings in ALGORITHMS.items():
        chosen = [f"rl.algorithm={algorithm}", *settings]
        for seeded, folder in folders.items():
            job.append(stage_2(folder / "warmup", folder / algorithm, seeded, *chosen))
            job.append(evaluation(folder / algorithm / "model_last.pt", folder / "eval" / algorithm, BOTH))
    return job


def table(run: Path, recogniser: str) -> str:
    """Markdown: each model's mean over seeds against the base, on voices never seen."""
    base = read_result(run / "base")
    rows = [[*measured("base", [base], recogniser), *[""] * len(CHANGES)]]
    for name in ALGORITHMS:
        seeds = [read_result(run / f"seed_{seed}" / "eval" / name) for seed in SEEDS]
        rows.append([*measured(f"stage 2, {name}", seeds, recogniser), *changes(base, seeds, recogniser)])
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    title = f"Voices never seen, {len(SEEDS)} seeds, measured {RECOGNISERS[recogniser]}:"
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


def main(argv: list[str]) -> bool:
    signal.signal(signal.SIGINT, lambda number, frame: None)  # the command at work saves and ends; then so do we
    for phase in phases():
        phase.run()
    text = "\n".join(table(RUN, recogniser) for recogniser in ("whisper", "pocketsphinx"))
    (RUN / "results.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {RUN / 'results.md'}")
    return True


if __name__ == "__main__":
    command(main, sys.argv[1:])
