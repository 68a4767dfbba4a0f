"""Run the whole workflow on spoken digits: evaluate the base model, train by nft and by draft, evaluate, report.

`make quickstart`, or `python -m recipes.digits.quickstart`. Each phase is a command that a user can repeat. The command
is printed and run, unless its result exists in runs/quickstart. Two lanes of commands run beside each other, with one
thread each. `make clean-run` deletes these results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.entrypoint import run_command
from f5_tts.eval.agreement import describe_agreement
from f5_tts.eval.results import Result, read_result, select_examples
from f5_tts.eval.statistics import Interval, Score, paired_interval, similarities
from f5_tts.eval.test_set import read_items
from f5_tts.report.html import ListenRow, Results, Sample, write_page
from f5_tts.report.plots import draw_runs
from f5_tts.report.table import asr_title, compare
from f5_tts.train.metrics_log import metric_rows
from recipes.digits.lanes import Lane, Phase, run_lanes, usable_cpus

RUN_DIR = Path("runs/quickstart")
BASE = Path("pretrained/F5TTS_Mini/model_800.safetensors")
ITEMS = Path("data/mini_custom/test.jsonl")
ALGORITHMS = ("nft", "draft")  # each is the folder of its run, too
SELECTING, JUDGE = "pocketsphinx", "whisper"  # the first chooses guidance and weights on dev; the second only measures
CHECKSUM_DIGITS = 12  # hexadecimal, of SHA-256
STAGE_1 = [
    *["-cn", "F5TTS_Mini", "datasets.name=mini", "model.output_dist=gaussian", "model.objective=gaussian_nll"],
    *["model.use_rl_head=true", "model.nll_t2=0", "model.warmup_scope=head", "optim.max_updates=60"],
    *["optim.learning_rate=1e-2", "optim.num_warmup_updates=4"],
]
JUDGES = [
    f"eval.recognisers=[{SELECTING},{JUDGE}]",
    "eval.normaliser=recipes.digits.judges:digit_words",
    "eval.providers=[{name: voice_sim}, {name: 'recipes.digits.judges:SampledMos'}]",
]
SHORT_NFT = ["optim.max_updates=150", "eval.every_updates=50", "eval.dev_takes=1"]  # ends when draft does
BEST = "model_best.pt"  # chosen on dev by pocketsphinx


def lanes(run_dir: Path = RUN_DIR) -> list[Lane]:
    """List the lanes of the workflow: the base model and both stages with nft; draft, which needs no stage 1.

    They take about as long as each other.
    """
    warmup, nft, draft = (run_dir / name for name in ("warmup", *ALGORITHMS))
    by_nft = [
        evaluation(BASE, run_dir / "eval" / "base"),
        stage_1(warmup),
        stage_2(warmup, nft, *SHORT_NFT),
        evaluation(nft / BEST, run_dir / "eval" / "nft"),
    ]
    by_draft = [
        draft_from_base(draft),
        evaluation(draft / BEST, run_dir / "eval" / "draft"),
    ]
    return [
        Lane(name="nft", phases=by_nft, folder=run_dir / "logs"),
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
        arguments=["-cn", "F5TTS_Mini_RL", *more, f"ckpts.save_dir={folder}"],
        copies=(warmup / "model_last.pt", folder / "model_last.pt"),
    )


def draft_from_base(folder: Path, *more: str) -> Phase:
    """Build the phase that trains the base model by the gradients of rewards."""
    return Phase(
        title="stage 2, gradients of rewards",
        module="f5_tts.train.train_rl",
        arguments=["-cn", "F5TTS_Mini_Draft", f"ckpts.init_from={BASE}", *more, f"ckpts.save_dir={folder}"],
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


def write_report(run_dir: Path = RUN_DIR) -> None:
    """Write the table, the plot and the HTML page of a complete run, and print the table."""
    results = read_results(run_dir)
    picture, table = run_dir / "run.png", compare(results)
    base, *trained = results.items()
    changes = [describe_change(base[1], result, title) for title, result in trained]
    text = "\n".join([table.markdown(), *changes, *describe_agreement(base[1])])
    (run_dir / "results.md").write_text(f"{text}\n", encoding="utf-8")
    draw_runs({name: metric_rows(run_dir / name / "metrics.jsonl") for name in ALGORITHMS}, picture)
    write_page(
        listen_rows(results, run_dir), run_dir / "listen.html", Results(table=table, changes=changes, picture=picture)
    )
    print(f"\n{text}\n")
    print(f"table {run_dir / 'results.md'}, plot {picture}; to listen, open {run_dir / 'listen.html'} in a browser")


def read_results(run_dir: Path) -> dict[str, Result]:
    """Read the results of the base model and of each algorithm, by their titles in the table."""
    checksum = sha256(BASE.read_bytes()).hexdigest()[:CHECKSUM_DIGITS]
    titles = {"base": f"base (sha256 {checksum})", **{name: f"stage 2 ({name})" for name in ALGORITHMS}}
    return {title: read_result(run_dir / "eval" / folder) for folder, title in titles.items()}


def describe_change(before: Result, after: Result, title: str) -> str:
    """Describe how training changed error rate and similarity, from differences paired by item."""
    scores = before.unseen(JUDGE), [after.unseen(JUDGE)]
    error, voice = paired_interval(*scores, relative=True), paired_interval(*scores, similarities)
    return (
        f"{title.capitalize()} changed the error rate by {asr_title(before, JUDGE)} by {with_interval(error, '+.0%')} "
        f"of the base's, and the similarity by {before.speaker_judge} by {with_interval(voice, '+.3f')} (95 % "
        "intervals over items; one seed)."
    )


def with_interval(interval: Interval, style: str) -> str:
    """Format a value and its interval."""
    value, low, high = (format(number, style) for number in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def listen_rows(results: Mapping[str, Result], run_dir: Path) -> list[ListenRow]:
    """Collect the first clip of each model for the example items, with what the judge heard."""
    items = {item.id: item for item in read_items(ITEMS)}
    first_takes = {model: scores_by_id(result.unseen(JUDGE)) for model, result in results.items()}
    count = compose_config("F5TTS_Mini_RL", [], RLTrainConfig).eval.num_wavs
    base = next(iter(results.values()))
    return [
        ListenRow(
            text=items[name].text,
            prompt_audio=Path(items[name].prompt_audio),
            prompt_text=items[name].prompt_text,
            samples=[
                Sample(
                    model=model,
                    audio=run_dir / "eval" / folder / "wavs" / f"{name}.wav",
                    transcript=scores[name].hypothesis,
                    similarity=scores[name].similarity,
                )
                for folder, (model, scores) in zip(("base", *ALGORITHMS), first_takes.items(), strict=True)
            ],
        )
        for name in select_examples(base.scores[SELECTING], count)
    ]


def scores_by_id(scores: list[Score]) -> dict[str, Score]:
    """Return the score of the first take of each item."""
    return {score.id: score for score in reversed(scores)}


def main(argv: list[str]) -> bool:
    """Run the command: all phases, then the report; return False if the user stopped it."""
    started = time.monotonic()
    if not run_lanes(lanes(), at_once=min(2, usable_cpus())):
        return False
    write_report()
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")
    return True


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
