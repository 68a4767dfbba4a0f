"""Run the whole workflow on spoken digits: evaluate the base model, train by GRPO and by draft, evaluate, report.

`make quickstart`, or `python -m recipes.digits.quickstart`. Each phase is a command that a user can repeat. The command
is printed and run, unless its result exists in runs/quickstart. Two lanes of commands run beside each other, with one
thread each. `make clean-run` deletes these results.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from hashlib import sha256
from pathlib import Path

from f5_tts.entrypoint import run_command
from f5_tts.eval.agreement import describe_agreement
from f5_tts.report.render import describe, verdicts_of, write_page, write_picture
from f5_tts.report.sources import Sources, find_sources
from f5_tts.report.table import compare
from f5_tts.threads import usable_cpus
from recipes.digits.lanes import Lane, Phase, run_lanes

RUN_DIR = Path("runs/quickstart")
BASE = Path("pretrained/F5TTS_Mini/model_800.safetensors")
ALGORITHMS = ("grpo", "draft")  # each is the folder of its run, too
SELECTING, JUDGE = "pocketsphinx", "whisper"  # the first chooses guidance and weights on dev; the second only measures
CHECKSUM_DIGITS = 12  # hexadecimal, of SHA-256
STAGE_1 = [
    *["-cn", "F5TTS_Mini", "datasets.name=mini", "model.output_dist=gaussian", "model.objective=gaussian_nll"],
    *["model.use_rl_head=true", "model.nll_t2=0", "model.warmup_scope=head", "optim.max_updates=60"],
    *["optim.learning_rate=1e-2", "optim.num_warmup_updates=4"],
]
JUDGES = [
    "eval.dev_takes=2",  # half as many as by default: 96 clips choose among three guidance strengths
    f"eval.recognisers=[{SELECTING},{JUDGE}]",
    "eval.normaliser=recipes.digits.judges:digit_words",
    "eval.providers=[{name: voice_sim}, {name: 'recipes.digits.judges:SampledMos'}]",
]
BEST = "model_best.pt"  # chosen on dev by pocketsphinx
SHARE, BETWEEN = 0.9, "model_between.safetensors"  # of the way from the base to draft's weights, and the file for it
HELD_OUT = "Held-out digit strings in voices that no training used, with 95 % intervals over items"
TITLE = "Before and after reinforcement learning"
INTRODUCTION = (
    "A small text-to-speech model takes a prompt and speaks other digits in the prompt's voice. It was never trained "
    "on these digit strings. Here is how well it does that before and after training by reinforcement, once for each "
    "algorithm. All models start from the same noise."
)


def lanes(run_dir: Path = RUN_DIR) -> list[Lane]:
    """List the lanes of the workflow: the base model and both stages with GRPO; draft, which needs no stage 1.

    They take about as long as each other.
    """
    warmup, grpo, draft = (run_dir / name for name in ("warmup", *ALGORITHMS))
    by_grpo = [
        evaluation(BASE, run_dir / "eval" / "base"),
        stage_1(warmup),
        stage_2(warmup, grpo),
        evaluation(grpo / BEST, run_dir / "eval" / "grpo"),
    ]
    by_draft = [
        draft_from_base(draft),
        between(draft),
        evaluation(draft / BETWEEN, run_dir / "eval" / "draft"),
    ]
    return [
        Lane(name="grpo", phases=by_grpo, folder=run_dir / "logs"),
        Lane(name="draft", phases=by_draft, folder=run_dir / "logs"),
    ]


def stage_1(folder: Path, *more: str) -> Phase:
    """Build the phase that trains stage 1 from the base model."""
    return Phase(
        title="stage 1, warm-up of the Gaussian head",
        module="f5_tts.train.train",
        arguments=[*STAGE_1, *more, f"ckpts.save_dir={folder}"],
        copies=(BASE, folder / f"pretrained_{BASE.name}"),
    )


def stage_2(warmup: Path, folder: Path, *more: str) -> Phase:
    """Build the phase that trains stage 2 from the result of stage 1."""
    return Phase(
        title="stage 2, rewards compared within groups",
        module="f5_tts.train.train_rl",
        arguments=["-cn", "F5TTS_Mini_GRPO", *more, f"ckpts.save_dir={folder}"],
        copies=(warmup / "model_last.pt", folder / "model_last.pt"),
    )


def draft_from_base(folder: Path, *more: str) -> Phase:
    """Build the phase that trains the base model by the gradients of rewards."""
    return Phase(
        title="stage 2, gradients of rewards",
        module="f5_tts.train.train_rl",
        arguments=["-cn", "F5TTS_Mini_Draft", f"ckpts.init_from={BASE}", *more, f"ckpts.save_dir={folder}"],
    )


def between(folder: Path) -> Phase:
    """Build the phase that takes back a part of what a run changed, which keeps more of the voice."""
    return Phase(
        title="weights between those of the base model and the trained ones",
        module="f5_tts.scripts.interpolate",
        arguments=[str(folder / BEST), str(folder / BETWEEN), f"--share={SHARE}"],
        result=folder / BETWEEN,
    )


def evaluation(ckpt: Path, out: Path, *more: str) -> Phase:
    """Build the phase that evaluates a checkpoint by all judges."""
    return Phase(
        title=f"evaluate {ckpt}",
        module="f5_tts.scripts.evaluate",
        arguments=["-cn", "F5TTS_Mini", "datasets.name=mini", f"eval.ckpt={ckpt}", *JUDGES, *more, f"eval.out={out}"],
        result=out / "scores.json",
    )


# --- the report ---


def sources_of(run_dir: Path) -> Sources:
    """Find the runs and evaluations of a complete run."""
    evaluations = [run_dir / "eval" / name for name in ("base", *ALGORITHMS)]
    return find_sources([*(run_dir / name for name in ALGORITHMS), *evaluations])


def describe_results(sources: Sources) -> str:
    """Format the table of the models, the changes, and how far the judges agree."""
    checksum = sha256(BASE.read_bytes()).hexdigest()[:CHECKSUM_DIGITS]
    titles = {"base": f"base (sha256 {checksum})", **{name: f"stage 2 ({name})" for name in ALGORITHMS}}
    results = {titles[found.title]: found.result for found in sources.evaluations}
    findings = [finding for verdict in verdicts_of(sources, JUDGE) for finding in verdict.findings]
    base = next(iter(results.values()))
    return "\n".join(
        [compare(results, HELD_OUT).markdown(), *(f"{found.text}." for found in findings), *describe_agreement(base)]
    )


def write_report(run_dir: Path = RUN_DIR) -> None:
    """Write table, picture and report of a complete run, and print the table."""
    sources = sources_of(run_dir)
    page, picture = run_dir / "report.html", run_dir / "run.svg"
    write_page(sources, page, title=TITLE, introduction=INTRODUCTION, judge=JUDGE)
    write_picture(sources, picture)
    text = describe_results(sources)
    (run_dir / "results.md").write_text(f"{text}\n", encoding="utf-8")
    print(f"\n{text}\n\nwrote {run_dir / 'results.md'} and {picture}; {describe(page)}")


def main(argv: list[str]) -> bool:
    """Run the command: all phases, then the report; return False if the user stopped it."""
    ArgumentParser(prog="python -m recipes.digits.quickstart", description=__doc__).parse_args(argv)
    started = time.monotonic()
    if not run_lanes(lanes(), at_once=min(2, usable_cpus())):
        return False
    print(f"\ntrained and evaluated in {(time.monotonic() - started) / 60:.1f} minutes")
    write_report()
    return True


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
