"""Run the whole workflow on spoken digits: evaluate the base model, train both stages, evaluate again, report.

`make quickstart`, or `python -m recipes.digits.quickstart`. Each phase is a command that a user can repeat. The command
is printed and run, unless its result exists in runs/quickstart. `make clean-run` deletes these results.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.entrypoint import run_command
from f5_tts.eval.results import Result, read_result, select_examples
from f5_tts.eval.statistics import Score, error_rate, paired_interval
from f5_tts.eval.table import results_table
from f5_tts.eval.test_set import read_items
from f5_tts.report.html import ListenRow, Results, Sample, write_page
from f5_tts.report.plots import draw_run
from f5_tts.train.metrics_log import metric_rows

RUN_DIR = Path("runs/quickstart")
BASE = Path("pretrained/F5TTS_Mini/model_800.safetensors")
ITEMS = Path("data/mini_custom/test.jsonl")
ASR = "pocketsphinx"
MODELS = {"base": "base", "stage 1": "warmup", "stage 2": "grpo"}
STAGE_1 = [
    *["-cn", "F5TTS_Mini", "datasets.name=mini", "model.output_dist=gaussian", "model.objective=gaussian_nll"],
    *["model.use_rl_head=true", "model.nll_t2=0", "model.warmup_scope=head", "optim.max_updates=60"],
    *["optim.learning_rate=1e-2", "optim.num_warmup_updates=4"],
]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One command of the workflow."""

    title: str
    module: str
    arguments: list[str]
    result: Path | None = None  # a file that exists only after the phase is complete; training resumes without one
    copies: tuple[Path, Path] | None = None  # checkpoint and where to copy it first, as the guide's `cp` does

    def run(self) -> None:
        """Print the command and run it, unless its result exists; exit with its code if it fails."""
        print(f"\n== {self.title}", flush=True)
        if self.result is not None and self.result.exists():
            print(f"{self.result} exists: nothing to do (make clean-run starts over)", flush=True)
            return
        if self.copies and not self.copies[1].exists():
            self.copies[1].parent.mkdir(parents=True, exist_ok=True)
            print(f"$ cp {self.copies[0]} {self.copies[1]}", flush=True)
            shutil.copy2(*self.copies)
        print(f"$ {shlex.join(self.command)}", flush=True)
        process = subprocess.run([sys.executable, *self.command[1:]])
        if process.returncode:
            raise SystemExit(process.returncode)

    @property
    def command(self) -> list[str]:
        """Return the command line as a user would type it."""
        return [".venv/bin/python", "-m", self.module, *self.arguments]


def phases(run_dir: Path = RUN_DIR) -> list[Phase]:
    """List the phases of the workflow in order."""
    warmup, grpo = run_dir / "warmup", run_dir / "grpo"
    return [
        evaluation(BASE, run_dir / "eval" / "base"),
        stage_1(warmup),
        evaluation(warmup / "model_last.pt", run_dir / "eval" / "warmup", f"eval.known={run_dir / 'eval' / 'base'}"),
        stage_2(warmup, grpo),
        evaluation(grpo / "model_last.pt", run_dir / "eval" / "grpo"),
    ]


def stage_1(folder: Path, *more: str) -> Phase:
    """Build the phase that trains stage 1 from the base model."""
    return Phase(
        title="stage 1: warm-up of the Gaussian head",
        module="f5_tts.train.train",
        arguments=[*STAGE_1, *more, f"ckpts.save_dir={folder}"],
        copies=(BASE, folder / f"pretrained_{BASE.name}"),
    )


def stage_2(warmup: Path, folder: Path, *more: str) -> Phase:
    """Build the phase that trains stage 2 from the result of stage 1."""
    return Phase(
        title="stage 2: GRPO with rewards compared within groups",
        module="f5_tts.train.train_rl",
        arguments=["-cn", "F5TTS_Mini_RL", *more, f"ckpts.save_dir={folder}"],
        copies=(warmup / "model_last.pt", folder / "model_last.pt"),
    )


def evaluation(ckpt: Path, out: Path, *more: str) -> Phase:
    """Build the phase that evaluates a checkpoint."""
    return Phase(
        title=f"evaluate {ckpt}",
        module="f5_tts.scripts.evaluate",
        arguments=["-cn", "F5TTS_Mini", "datasets.name=mini", f"eval.ckpt={ckpt}", *more, f"eval.out={out}"],
        result=out / "scores.json",
    )


def write_report(run_dir: Path = RUN_DIR) -> None:
    """Write the table, the plot and the HTML page of a complete run, and print the table."""
    results = {model: read_result(run_dir / "eval" / folder) for model, folder in MODELS.items()}
    rows = [row for model, result in results.items() for row in result.rows(model, ASR)]
    speaker_judge = results["base"].speaker_judge
    table = results_table(rows, ASR, speaker_judge)
    before, after = (results[model].unseen(ASR) for model in ("base", "stage 2"))
    settings, picture = compose_config("F5TTS_Mini_RL", [], RLTrainConfig), run_dir / "run.png"
    change = describe_change(before, after, settings.rl.algorithm)
    (run_dir / "results.md").write_text(f"{table}\n{change}\n", encoding="utf-8")
    metrics = metric_rows(run_dir / "grpo" / "metrics.jsonl")
    held_out = (error_rate(before), error_rate(after))
    draw_run(metrics, picture, algorithm=settings.rl.algorithm, held_out=held_out)
    examples = listen_rows(results, run_dir, settings.eval.num_wavs)
    write_page(
        examples, run_dir / "listen.html", Results(rows=rows, asr=ASR, speaker_judge=speaker_judge, picture=picture)
    )
    print(f"\n{table}\n{change}\n")
    print(f"table {run_dir / 'results.md'}, plot {picture}; to listen, open {run_dir / 'listen.html'} in a browser")


def describe_change(before: list[Score], after: list[Score], algorithm: str) -> str:
    """Describe how stage 2 changed the held-out error rate, from differences paired by item."""
    change = paired_interval(before, [after], relative=True)
    return (
        f"Stage 2 ({algorithm}) changed the held-out error rate by {change.value:+.0%} of the base's "
        f"(95 % interval over items: {change.low:+.0%} to {change.high:+.0%}; one seed)."
    )


def listen_rows(results: dict[str, Result], run_dir: Path, count: int) -> list[ListenRow]:
    """Collect the first clip of each model for the example items."""
    items = {item.id: item for item in read_items(ITEMS)}
    unseen = {model: result.unseen(ASR) for model, result in results.items()}
    scores_by_id = {model: {score.id: score for score in reversed(scores)} for model, scores in unseen.items()}
    return [
        ListenRow(
            text=items[name].text,
            prompt_audio=Path(items[name].prompt_audio),
            prompt_text=items[name].prompt_text,
            samples=[
                Sample(
                    model=model,
                    audio=run_dir / "eval" / MODELS[model] / "wavs" / f"{name}.wav",
                    transcript=scores[name].hypothesis,
                    similarity=scores[name].similarity,
                )
                for model, scores in scores_by_id.items()
            ],
        )
        for name in select_examples(results["base"].scores[ASR], count)
    ]


def main(argv: list[str]) -> bool:
    """Run the command: all phases, then the report."""
    started = time.monotonic()
    # the running command saves and stops; its exit code then ends this one
    signal.signal(signal.SIGINT, lambda number, frame: None)
    for phase in phases():
        phase.run()
    write_report()
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")
    return True


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
