"""Signal-to-noise ratio of the gradient of stage 2, by algorithm, reward and settings.

`python examples/gradient_snr.py` measures the rows of `ROWS` at the base model and writes snr.csv, snr.md and snr.png.
Rollouts, rewards and losses are those of training, without the KL. A row that snr.csv has with the same settings is not
measured again. Arguments `key=value` change the config of all rows.

The gradient of an update is g = s + e: the signal s is its mean, and the noise e is independent between updates. The
cosine between two updates is therefore about c = |s|² / (|s|² + |e|²). A batch with m times as many prompts divides
|e|² by m. With m = 1/c - 1 the cosine is 0.5.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig, dataset_dir
from f5_tts.data.batching import load_batches
from f5_tts.data.rows import read_data_set
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.entrypoint import EXIT_INTERRUPTED, run_command
from f5_tts.files import user_path
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import read_checkpoint
from f5_tts.plotting import new_figure
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.rl.grpo import PolicyLoss, collect_experience
from f5_tts.train.build import build_plan
from f5_tts.train.build_rl import build_advantage, build_policy, build_scorer, check_window, resolve_algorithm
from f5_tts.types import ExperienceBatch

sys.path.append(str(Path(__file__).parents[1]))  # recipes are not installed
from recipes.digits.lanes import Lane, run_lanes
from recipes.digits.quickstart import BASE, stage_1

MIN_UPDATES = 3  # per row: the jackknife leaves one out, and two make a pair


def reward(name: str, config: str = "") -> str:
    """Return the override that makes this the only reward."""
    return f"rl.rewards.providers=[{{name: {name}, floor: 0.02, config: {{{config}}}}}]"


def block(frames: int, bins: int) -> str:
    """Return the override for noise in blocks."""
    return f"rl.window.noise_block=[{frames},{bins}]"


SAMPLE, WORD = "rl.credit=sample", "rl.credit=word"
ACC, FIT = reward("digits_ctc", "component: acc"), reward("digits_ctc", "component: fit")
DRAFT = ["rl.algorithm=draft", FIT, SAMPLE, "rl.mini_repeat_count=1", "datasets.batch_size_per_gpu=8"]
NFT = ["rl.algorithm=nft"]
FLOW = ["rl.algorithm=flow_grpo", "rl.shared_noise=true"]
GAUSSIAN = ["rl.algorithm=gaussian_grpo", "rl.shared_noise=true", FIT, SAMPLE]
FLOW_FIT = [*FLOW, FIT, SAMPLE]
FLOW_WORD = [*FLOW, FIT, WORD, "rl.sde.a=1"]
GUIDED = [FIT, WORD, "rl.cfg_strength=1", "rl.cfg_grad_uncond=false"]
BLOCKS = ["rl.shared_noise=true", "rl.window.t_range=[0.05,0.1]", block(8, 10), "rl.sde.a=1"]
ROWS = {  # name: changes of F5TTS_Mini_RL, which has 4 solver steps, from t = 0, 0.08, 0.29 and 0.62
    **{f"draft, K={steps}": [*DRAFT, f"rl.draft.last_steps={steps}"] for steps in (4, 2, 1)},
    "draft, K=4, augmented": [*DRAFT, "rl.draft.last_steps=4", "rl.draft.augmentation=1"],
    "draft, refl": [*DRAFT, "rl.draft.mode=refl"],
    "nft, acc by word": [*NFT, ACC, WORD],
    "nft, fit": [*NFT, FIT, SAMPLE],
    "nft, fit by word": [*NFT, FIT, WORD],
    "nft, guided": [*NFT, *GUIDED],
    "nft, guided, blocks of 8 x 10": [*NFT, *GUIDED, *BLOCKS],
    "nft, guided, blocks of 8 x 10, t to 0.4": [*NFT, *GUIDED, *BLOCKS, "rl.nft.t_range=[0,0.4]"],
    "nft, guided, t to 0.4": [*NFT, *GUIDED, "rl.nft.t_range=[0,0.4]"],
    "nft, pocketsphinx by word": [*NFT, reward("digits_wer"), WORD],
    "flow_grpo, acc by word": [*FLOW, ACC, WORD],
    "flow_grpo, fit": FLOW_FIT,
    **{f"flow_grpo, fit, a={level}": [*FLOW_FIT, f"rl.sde.a={level}"] for level in (0.5, 1.5, 2)},
    **{f"flow_grpo, fit, group of {size}": [*FLOW_FIT, f"rl.group_size={size}"] for size in (16, 32)},
    "flow_grpo, fit, step at 0": [*FLOW_FIT, "rl.window.t_range=[0,0.05]"],
    "flow_grpo, fit, step at 0.08": [*FLOW_FIT, "rl.window.t_range=[0.05,0.1]"],
    "flow_grpo, fit, step at 0.29": [*FLOW_FIT, "rl.window.t_range=[0.25,0.35]"],
    "flow_grpo, fit by word, a=1": FLOW_WORD,
    **{
        f"flow_grpo, fit by word, a=1, blocks of {frames} x {bins}": [*FLOW_WORD, block(frames, bins)]
        for frames, bins in ((4, 10), (8, 10), (16, 10), (8, 25), (16, 20))
    },
    "flow_grpo, guided, blocks of 8 x 10": ["rl.algorithm=flow_grpo", *GUIDED, *BLOCKS],
    "flow_grpo, fit, 2 steps": [*FLOW_FIT, "rl.window.size=2"],
    **{f"gaussian_grpo, fit, T={value}": [*GAUSSIAN, f"rl.temperature={value}"] for value in (1, 3)},
    "gaussian_grpo, fit, T=3, 2 steps": [*GAUSSIAN, "rl.window.size=2"],
    **{f"gaussian_grpo, fit, T=3, group of {size}": [*GAUSSIAN, f"rl.group_size={size}"] for size in (16, 32)},
    **{
        f"gaussian_grpo, fit by word, T={t}, blocks of 16 x 10": [*GAUSSIAN, WORD, f"rl.temperature={t}", block(16, 10)]
        for t in (1, 2, 3)
    },
    "gaussian_grpo, fit, T=3, step at 0.62": [*GAUSSIAN, "rl.window.t_range=[0.6,0.7]"],
}


class Row(NamedTuple):
    """Measurement of one row; cosine and standard error are `mean_cosine`'s."""

    name: str
    settings: str  # number of updates and overrides
    cosine: float
    standard_error: float
    cpu_seconds: float  # per update, of this process and its workers


# --- measurement ---


def overrides_of(name: str, more: Sequence[str] = ()) -> list[str]:
    """List the overrides of a row; those of the command line come last."""
    return [f"ckpts.init_from={BASE}", "rl.kl_weight=0", *ROWS[name], *more]


def measure(cfg: RLTrainConfig, updates: int) -> tuple[float, float, float]:
    """Measure the mean cosine between the gradients of updates, its standard error, and CPU seconds per update."""
    policy, experience = prepare(cfg)
    started, loss = cpu_seconds(), PolicyLoss(cfg.rl)
    units = [unit_gradient(policy, batches, loss) for batches in islice(experience, updates)]
    return *mean_cosine(units), (cpu_seconds() - started) / len(units)


def prepare(cfg: RLTrainConfig) -> tuple[CFM, Iterator[list[ExperienceBatch]]]:
    """Build the policy and the stream of its experience, one item per update, each with prompts of its own."""
    check_window(cfg.rl)
    checkpoint = read_checkpoint(Path(cfg.ckpts.init_from or BASE))
    resolve_algorithm(cfg.rl.algorithm, checkpoint)  # raises ValueError without a trained head that it needs
    plan = build_plan(cfg, read_data_set(cfg.datasets.name, dataset_dir(cfg)))
    vocabulary, scorer = build_vocabulary(cfg), build_scorer(cfg.model, cfg.rl)
    policy = build_policy(cfg, vocabulary, checkpoint)
    loaded = (item.batch for item in load_batches(plan, vocabulary, first=0) if item.batch is not None)
    prompts = iter(lambda: list(islice(loaded, cfg.optim.grad_accumulation_steps)), [])
    return policy, collect_experience(policy, prompts, scorer, build_advantage(scorer, cfg.rl), cfg.rl)


def unit_gradient(policy: CFM, batches: list[ExperienceBatch], loss: PolicyLoss) -> Float[Tensor, " p"]:
    """Compute the gradient of an update with respect to all p weights, divided by its norm."""
    policy.zero_grad()
    for output in loss(policy, batches):
        output.loss.backward()
    grads = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in policy.parameters()]
    return F.normalize(torch.cat([grad.flatten().float() for grad in grads]), dim=0)


def mean_cosine(units: Sequence[Float[Tensor, " p"]]) -> tuple[float, float]:
    """Compute the mean cosine over all pairs of n unit vectors, (|Σ u|² - n) / (n² - n), and its standard error.

    Pairs share vectors, so the error is the jackknife's over vectors, √((n - 1) V), with V the variance of the means
    that leave one vector out. It is up to √2 too large where the cosine is near 0 (Efron and Stein 1981).
    """
    num, total = len(units), sum(units, torch.zeros_like(units[0]))
    with_others = torch.stack([unit @ (total - unit) for unit in units]).double()  # sum of n - 1 cosines
    without_one = (with_others.sum() - 2 * with_others) / ((num - 1) * (num - 2))
    error = ((num - 1) * without_one.var(correction=0)).sqrt()
    return float(with_others.sum()) / (num * (num - 1)), float(error)


def batch_factor(cosine: float) -> float:
    """Compute how many times as large a batch has to be for a cosine of 0.5; infinite without a signal."""
    return 1 / cosine - 1 if cosine > 0 else math.inf


def cpu_seconds() -> float:
    """Return the CPU time of this process and its workers so far, in seconds."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


# --- output ---


def read_rows(path: Path) -> dict[str, Row]:
    """Read the measured rows by name; none if there is no file."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        lines = [Row(line[0], line[1], *map(float, line[2:])) for line in islice(csv.reader(file), 1, None)]
    return {row.name: row for row in lines}


def write_results(rows: Sequence[Row], out: Path) -> None:
    """Write the rows as snr.csv, snr.md and snr.png."""
    with (out / "snr.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([Row._fields, *rows])
    (out / "snr.md").write_text(table(rows), encoding="utf-8")
    draw(rows, out / "snr.png")


def table(rows: Sequence[Row]) -> str:
    """Format the Markdown table; where the cosine is below two standard errors, the batch is a lower bound."""
    header = ("gradient", "cosine", "CPU s per update", "batch for 0.5", "CPU s for 0.5")
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in rows:
        is_clear = row.cosine > 2 * row.standard_error
        factor = batch_factor(row.cosine if is_clear else row.cosine + 2 * row.standard_error)
        sign, cosine = "" if is_clear else "> ", f"{row.cosine:+.4f} ± {row.standard_error:.4f}"
        costs = [f"{row.cpu_seconds:.2f}", f"{sign}{factor:.3g} x", f"{sign}{factor * row.cpu_seconds:.3g}"]
        lines.append([row.name, cosine, *costs])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Plot the cosines with their standard errors."""
    figure = new_figure(8.0, 1.2 + 0.26 * len(rows))
    axis, places = figure.subplots(), range(len(rows))
    errors = [row.standard_error for row in rows]
    axis.errorbar([row.cosine for row in rows], places, xerr=errors, fmt="o", color="#1f5f99", capsize=2)
    axis.axvline(0, color="gray", linewidth=0.8)
    axis.set_yticks(places, [row.name for row in rows])
    axis.invert_yaxis()
    axis.set(title="cosine between the gradients of two updates, ± standard error")
    axis.set_xscale("symlog", linthresh=0.01)
    figure.savefig(path)


def main(argv: list[str]) -> bool:
    """Run the command."""
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows = read_rows(args.out / "snr.csv")
    for name in filter(re.compile(args.rows).search, ROWS):
        settings = " ".join([f"{args.repeats} updates:", *overrides_of(name, args.overrides)])
        if name in rows and rows[name].settings == settings:
            continue
        cfg = compose_config("F5TTS_Mini_RL", overrides_of(name, args.overrides), RLTrainConfig)
        if find_algorithm(cfg.rl.algorithm).needs_trained_head:
            args.warmup = args.warmup or train_head(args.out / "warmup")
            cfg.ckpts.init_from = str(args.warmup)
        rows[name] = Row(name, settings, *measure(cfg, args.repeats))
        print(f"{name}: cosine {rows[name].cosine:+.4f}", flush=True)
        write_results([rows[known] for known in ROWS if known in rows], args.out)
    print((args.out / "snr.md").read_text(encoding="utf-8"))
    return True


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; raise ValueError for too few updates, or a pattern that matches no row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=16, help=f"updates per row, {MIN_UPDATES} or more")
    parser.add_argument("--rows", default="", help="regular expression: only rows whose name it matches")
    parser.add_argument("--warmup", type=user_path, help="checkpoint of stage 1 for gaussian_grpo; trained without one")
    parser.add_argument("--out", type=user_path, default=Path("runs/snr"))
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="changes of the config of all rows")
    args = parser.parse_intermixed_args(argv)
    if args.repeats < MIN_UPDATES:
        raise ValueError(f"--repeats={args.repeats}: a standard error needs {MIN_UPDATES} updates or more")
    if not any(re.search(args.rows, name) for name in ROWS):
        raise ValueError(f"--rows={args.rows} matches no row; rows are: {'; '.join(ROWS)}")
    return args


def train_head(folder: Path) -> Path:
    """Train stage 1 as the quick start does, or resume it; return the checkpoint.

    Raises SystemExit if it fails or is stopped.
    """
    if not run_lanes([Lane(name="warmup", phases=[stage_1(folder)], folder=folder.parent)], at_once=1):
        raise SystemExit(EXIT_INTERRUPTED)
    return folder / "model_last.pt"


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
