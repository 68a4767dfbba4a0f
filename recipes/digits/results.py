"""Train the quick start's model with each algorithm at equal CPU time, and measure it with judges that are no rewards.

`make results`, or `python -m recipes.digits.results --seeds 1 2 3`, takes about an hour and a half on two CPU cores and
writes runs/results/results.md. After an interruption the tables are of what is complete, and the same command resumes.
Each algorithm gets `BUDGET` CPU seconds of updates for each seed, with one thread. Validations, the evaluation, and
stage 1 of gaussian_grpo, the only algorithm that needs it, come on top: a cell of algorithm and seed takes less than 15
minutes. The tables also have best-of-8 sampling, which needs no training, and, with the first seed, variants: nft with
the gradient of draft, and ablations of draft.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import fmean

from f5_tts.entrypoint import run_command
from f5_tts.eval.results import FILE, Result, read_result
from f5_tts.eval.statistics import (
    Interval,
    RatioMetric,
    extra_metric,
    paired_interval,
    seeds_interval,
    similarities,
    word_errors,
)
from f5_tts.report.metric_rows import metric_rows
from f5_tts.report.table import Table, asr_title, judge_title, other_judges
from f5_tts.threads import usable_cpus
from recipes.digits.lanes import Lane, Phase, cpu_seconds, run_lanes
from recipes.digits.quickstart import (
    BASE,
    BEST,
    BETWEEN,
    HELD_OUT,
    JUDGE,
    JUDGES,
    SELECTING,
    between,
    evaluation,
    stage_1,
    stage_2,
)

RUN_DIR = Path("runs/results")
SEEDS = [1, 2, 3]
BEST_OF = 8
BUDGET = 585.0  # CPU seconds of updates; those of draft in the quick start
REWARDS = ["digits_ctc", "voice_sim"]  # of all algorithms
COSTS = ("updates", "training, CPU s", "peak MiB", "inference cost")
NO_HEAD = [f"ckpts.init_from={BASE}", "model.output_dist=deterministic", "model.use_rl_head=false"]


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A run of stage 2 with its cost, measured with one thread on a core of an AMD EPYC."""

    title: str
    config: str
    overrides: Sequence[str] = field(default_factory=list)
    cpu_seconds: float  # of an update
    validations: int = 1  # at the end alone, where the rate is 0: of several, few clips would choose one by chance
    needs_head: bool = False  # it then starts from stage 1, else from the base model
    interpolates: bool = False  # whether a part of what it changed is taken back, as in the quick start

    @property
    def updates(self) -> int:
        """Return how many updates `BUDGET` pays for: a multiple of the validations, which end with the last update."""
        return self.validations * round(BUDGET / self.cpu_seconds / self.validations)

    @property
    def settings(self) -> list[str]:
        """Return the config overrides."""
        schedule = [f"optim.max_updates={self.updates}", f"eval.every_updates={self.updates // self.validations}"]
        return [*self.overrides, *schedule, "eval.dev_takes=1"]


def variant(title: str, override: str) -> Algorithm:
    """Return draft with another override, at the same share of the way."""
    return replace(DRAFT, title=title, overrides=[*DRAFT.overrides, override])


DRAFT = Algorithm(
    title="draft",
    config="F5TTS_Mini_Draft",
    overrides=[f"ckpts.init_from={BASE}"],
    cpu_seconds=2.6,
    validations=2,
    interpolates=True,
)
NFT = Algorithm(
    title="nft",
    config="F5TTS_Mini_GRPO",
    overrides=["rl.algorithm=nft", "rl.kl_weight=0.15", *NO_HEAD],
    cpu_seconds=3.3,
)
ALGORITHMS = {  # by folder
    "nft": NFT,
    "gaussian_grpo": Algorithm(title="gaussian_grpo", config="F5TTS_Mini_GRPO", cpu_seconds=3.3, needs_head=True),
    "flow_grpo": Algorithm(title="flow_grpo", config="F5TTS_Mini_GRPO", overrides=NO_HEAD, cpu_seconds=3.3),
    "draft": DRAFT,
}
VARIANTS = {  # with the first seed alone; of draft, each changes one key and has as many updates
    "nft_draft": replace(
        NFT,
        title="nft with draft (rl.draft.weight=1)",
        overrides=["rl.draft.weight=1", "rl.draft.last_steps=4", *NFT.overrides],
        cpu_seconds=4.2,
    ),
    "no_augmentation": variant("draft, no augmentation", "rl.draft.augmentation=0"),
    "last_step": variant("draft, K = 1", "rl.draft.last_steps=1"),
    "no_anchor": variant("draft, no anchor", "rl.kl_weight=0"),
    "no_voice": variant("draft, no similarity term", "rl.rewards.providers.0.weight=0"),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: algorithm or variant, and seed."""

    algorithm: Algorithm
    folder: Path
    seed: int

    @property
    def training(self) -> list[Phase]:
        """List the phases that train."""
        more, warmup = [f"optim.seed={self.seed}", *self.algorithm.settings], self.folder / "warmup"
        if self.algorithm.needs_head:
            return [stage_1(warmup, f"optim.seed={self.seed}"), stage_2(warmup, self.folder, *more)]
        run = Phase(
            title=f"{self.algorithm.title}, seed {self.seed}",
            module="f5_tts.train.train_rl",
            arguments=["-cn", self.algorithm.config, *more, f"ckpts.save_dir={self.folder}"],
        )
        return [run, between(self.folder)] if self.algorithm.interpolates else [run]

    @property
    def out(self) -> Path:
        """Return the folder of the evaluation."""
        return self.folder / "eval"

    @property
    def evaluation(self) -> Phase:
        """Return the phase that evaluates the trained model."""
        return evaluation(self.folder / (BETWEEN if self.algorithm.interpolates else BEST), self.out)

    @property
    def is_complete(self) -> bool:
        """Check whether the cell was trained and evaluated."""
        return self.evaluation.is_complete

    def lane(self, logs: Path) -> Lane:
        """Build the lane of this cell: training and evaluation, or the latter alone if it is complete."""
        name = f"{self.folder.name}_seed_{self.seed}"
        phases = [self.evaluation] if self.is_complete else [*self.training, self.evaluation]
        return Lane(name=name, phases=phases, folder=logs)


def cells(seeds: Sequence[int], run_dir: Path = RUN_DIR) -> dict[str, list[Cell]]:
    """List the runs of each algorithm, one for each seed, and of each variant, for the first seed."""
    return {
        name: [
            Cell(algorithm=algorithm, folder=run_dir / f"seed_{seed}" / name, seed=seed)
            for seed in (seeds if name in ALGORITHMS else seeds[:1])
        ]
        for name, algorithm in {**ALGORITHMS, **VARIANTS}.items()
    }


def lanes(seeds: Sequence[int], run_dir: Path = RUN_DIR) -> list[Lane]:
    """List the lanes in their order: the base model and its best-of-N, the algorithms seed by seed, the variants."""
    logs = run_dir / "logs"
    base = Lane(name="base", phases=[evaluation(BASE, run_dir / "base")], folder=logs)
    best = Lane(name="best_of", phases=[best_of_base(run_dir / "best_of")], folder=logs)
    runs = cells(seeds, run_dir)
    seed_by_seed = zip(*(runs[name] for name in ALGORITHMS), strict=True)
    ordered = [*chain.from_iterable(seed_by_seed), *chain.from_iterable(runs[name] for name in VARIANTS)]
    return [base, best, *(cell.lane(logs) for cell in ordered)]


def best_of_base(out: Path) -> Phase:
    """Build the phase for best-of-N of the base model, at guidance 1, which its own evaluation selects."""
    return Phase(
        title=f"the best of {BEST_OF} samples of the base, chosen by the rewards of nft",
        module="f5_tts.scripts.best_of",
        arguments=[
            *["-cn", "F5TTS_Mini_RL", f"eval.ckpt={BASE}", f"eval.best_of={BEST_OF}", "eval.cfg_strengths=[1]"],
            *[*JUDGES, f"eval.out={out}"],
        ],
        result=out / "scores.json",
    )


# --- the tables ---


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Column of the table: what is measured, and its change against the base model."""

    title: str
    asr: str  # recognizer whose scores hold it
    metric: RatioMetric
    is_error: bool = False  # an error rate is in percent, and its change relative to the base model

    def columns(self) -> list[str]:
        """Return the titles of the value and of its change."""
        return [self.title, "change, % of the base's (95 %)" if self.is_error else "change (95 %)"]

    def cells(self, base: Result, runs: Sequence[Result]) -> list[str]:
        """Format the value over all runs, and its change with an interval over items and seeds; the base has none."""
        before, after = [base.unseen(self.asr)], [run.unseen(self.asr) for run in runs]
        mean = seeds_interval(after, self.metric).value
        value = f"{100 * mean:.1f} %" if self.is_error else f"{mean:.3f}"
        if runs == [base]:
            return [value, ""]
        change = paired_interval(before, after, self.metric, relative=self.is_error)
        return [value, with_interval(change, "+.1%" if self.is_error else "+.3f")]


def measures(base: Result) -> list[Measure]:
    """List the columns: the error rate by each recognizer, similarity, and the scores of the other judges.

    Those of the algorithms' rewards are marked.
    """
    errors = [
        Measure(title=f"error rate by {asr_title(base, asr)}", asr=asr, metric=word_errors, is_error=True)
        for asr in (JUDGE, SELECTING)
    ]
    voice = Measure(title=judge_title(base.speaker_judge, REWARDS), asr=SELECTING, metric=similarities)
    others = [
        Measure(title=judge_title(name, REWARDS), asr=SELECTING, metric=extra_metric(name))
        for name in other_judges(base)
    ]
    return [*errors, voice, *others]


def tables(run_dir: Path, seeds: Sequence[int]) -> str:
    """Format the table of the models, means over the seeds that are complete, and that of single seeds by the judge."""
    base, runs = read_result(run_dir / "base"), complete_cells(seeds, run_dir)
    results = {name: [read_result(cell.out) for cell in row] for name, row in runs.items()}
    return "\n".join([over_seeds(base, run_dir, runs, results).markdown(), by_seed(base, runs, results).markdown()])


def complete_cells(seeds: Sequence[int], run_dir: Path) -> dict[str, list[Cell]]:
    """List the cells that are evaluated; an algorithm without any is left out."""
    rows = {name: [cell for cell in row if cell.is_complete] for name, row in cells(seeds, run_dir).items()}
    return {name: row for name, row in rows.items() if row}


def over_seeds(
    base: Result, run_dir: Path, runs: Mapping[str, Sequence[Cell]], results: Mapping[str, Sequence[Result]]
) -> Table:
    """Build the table of the base model, best-of-N, and each algorithm and variant over its seeds."""
    columns, no_training = measures(base), [""] * (len(COSTS) - 1)
    best = read_result(run_dir / "best_of")
    rows = [
        model_row("base", base, [base], columns, [*no_training, "1"]),
        model_row(f"base, best of {BEST_OF}", base, [best], columns, [*no_training, str(BEST_OF)]),
        *(
            model_row(row[0].algorithm.title, base, results[name], columns, costs(row, run_dir))
            for name, row in runs.items()
        ),
    ]
    titles = [title for column in columns for title in column.columns()]
    return Table(caption=f"{HELD_OUT} and seeds", header=["model", "seeds", "guidance", *titles, *COSTS], rows=rows)


def model_row(
    title: str, base: Result, runs: Sequence[Result], columns: Sequence[Measure], cost_cells: Sequence[str]
) -> list[str]:
    """Format the row of a model: guidance of each seed, every measure, and costs."""
    guidance = ", ".join(f"{run.guidance[SELECTING]:g}" for run in runs)
    measured = [cell for column in columns for cell in column.cells(base, runs)]
    return [title, str(len(runs)), guidance, *measured, *cost_cells]


def by_seed(base: Result, runs: Mapping[str, Sequence[Cell]], results: Mapping[str, Sequence[Result]]) -> Table:
    """Build the table of single seeds: the judge's error rate and its change."""
    error = measures(base)[0]
    rows = [
        [cell.algorithm.title, str(cell.seed), *error.cells(base, [result])]
        for name, row in runs.items()
        for cell, result in zip(row, results[name], strict=True)
    ]
    return Table(caption=HELD_OUT, header=["model", "seed", *error.columns()], rows=rows)


def costs(row: Sequence[Cell], run_dir: Path) -> list[str]:
    """Format what training cost: updates and CPU seconds, means over seeds, and the highest peak memory of any seed.

    CPU seconds are those of the training commands, with their start, validations and stage 1.
    """
    metrics = [metric_rows(cell.folder / "metrics.jsonl") for cell in row]
    updates = fmean(rows[-1]["update"] for rows in metrics)
    seconds = fmean(sum(cpu_seconds(run_dir / "logs", phase) for phase in cell.training) for cell in row)
    peak = max(values["mem/peak_mb"] for rows in metrics for values in rows if "mem/peak_mb" in values)
    return [f"{updates:.0f}", f"{seconds:.0f}", f"{peak:.0f}", "1"]


def command_line() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(prog="python -m recipes.digits.results", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 1 2 3")
    return parser


def with_interval(interval: Interval, style: str) -> str:
    """Format a value and its interval."""
    value, low, high = (format(number, style) for number in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def main(argv: list[str]) -> bool:
    """Run the command: all cells, then the tables, of what is complete if the user stopped it; then return False."""
    seeds = command_line().parse_args(argv).seeds
    is_complete = run_lanes(lanes(seeds), at_once=min(2, usable_cpus()))
    if all((RUN_DIR / name / FILE).exists() for name in ("base", "best_of")):
        text = tables(RUN_DIR, seeds)
        (RUN_DIR / "results.md").write_text(text, encoding="utf-8")
        print(f"\n{text}\nwrote {RUN_DIR / 'results.md'}; next: f5-tts report {RUN_DIR} for curves and clips")
    return is_complete


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
