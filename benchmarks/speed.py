"""Benchmark of sampling and training: time and memory of a small model, for this code and for common practice.

`python benchmarks/speed.py` prints a table: CPU seconds and peak memory of each job, at 1 and 2 threads, in float32 and
bfloat16. "Plain" is how such models are commonly sampled: guidance in two passes, the text embedded at every step,
rotary positions from stacked halves, convolutions in channels-first memory, and attention masks expanded to every head
and query. `--profile` shows where the time goes. Every job runs in a separate process; run the benchmark on an idle
machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.entrypoint import tune_malloc
from f5_tts.infer.sample import sample
from f5_tts.model.backbones import layers
from f5_tts.model.backbones.kernels import torch_kernels
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM
from f5_tts.model.flow import solve, time_grid
from f5_tts.train.infilling import InfillingLoss
from f5_tts.types import SpeechBatch, padding_mask

FRAMES, TOKENS, MEL_BINS, SYMBOLS = 300, 60, 100, 256
STEPS, GUIDANCE = 16, 2.0
SMALL = {"dim": 256, "depth": 6, "heads": 4, "ff_mult": 2, "text_dim": 128, "conv_layers": 4, "dropout": 0.0}
MATMULS = ("mm", "conv", "attention")  # parts of operator names


@dataclass(frozen=True)
class Job:
    """One workload to measure."""

    task: str  # sample or train
    batch: int
    precision: str  # fp32 or bf16
    threads: int
    way: str  # ours: this project's code; plain: common practice

    def ready(self) -> Callable[[], object]:
        """Make the model and its batch, and return the function to measure."""
        model, speech = small_model(), batch_of(self.batch)
        if self.way == "ours":
            tune_malloc()  # as every command does
        draw_it = draw if self.way == "ours" else draw_plainly
        work = train_step if self.task == "train" else draw_it

        def run() -> None:
            usual = usual_layers() if self.way == "plain" else nullcontext()
            with usual, torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
                work(model, speech)

        return run


class Cost(NamedTuple):
    """Cost of a job in its process."""

    seconds: float  # CPU time
    mib: float  # peak memory


def small_model() -> CFM:
    """Build a small model with random weights, always the same."""
    torch.manual_seed(0)
    cfg = compose_config("F5TTS_v1_Base", [], TrainConfig)
    cfg.model.arch = replace(cfg.model.arch, **SMALL)
    return build_model(cfg.model, Vocabulary([chr(i) for i in range(SYMBOLS)]))


def batch_of(num: int) -> SpeechBatch:
    """Make items of 300 frames; each after the first is 5 frames shorter, so that there is padding."""
    lens = FRAMES - 5 * torch.arange(num)
    return SpeechBatch(
        mel=torch.randn(num, FRAMES, MEL_BINS),
        lens=lens,
        prompt_lens=lens // 3,
        text=torch.randint(SYMBOLS, (num, TOKENS)),
        target_texts=[""] * num,
        group_ids=torch.arange(num),
        audio=[torch.zeros(1)] * num,
    )


def draw(model: CFM, batch: SpeechBatch) -> Tensor:
    """Sample speech with this project's sampler."""
    times = time_grid(STEPS, -1.0)
    prompt = batch.mel[:, : FRAMES // 3]
    return sample(model, prompt, batch.prompt_lens, batch.lens, batch.text, noise_like(batch), times, GUIDANCE)


@torch.no_grad()
def draw_plainly(model: CFM, batch: SpeechBatch) -> Tensor:
    """Sample the same speech as common practice does."""
    frames = torch.arange(FRAMES)
    prompt_mask = frames < batch.prompt_lens[:, None]
    cond = batch.mel.masked_fill(~prompt_mask[..., None], 0.0)
    mask, all_true = padding_mask(batch.lens, FRAMES), torch.ones(len(batch.lens), dtype=torch.bool)

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        with_text = model(x, cond, batch.text, time, mask).mean
        without = model(x, cond, batch.text, time, mask, drop_audio=all_true, drop_text=all_true).mean
        return with_text + GUIDANCE * (with_text - without)

    return torch.where(prompt_mask[..., None], cond, solve(velocity, noise_like(batch), time_grid(STEPS, -1.0)))


def noise_like(batch: SpeechBatch) -> Tensor:
    """Draw noise of the batch's shape, always the same."""
    return torch.randn(batch.mel.shape, generator=torch.Generator().manual_seed(1))


@contextmanager
def usual_layers() -> Iterator[None]:
    """Replace layers by those of common practice, within the context.

    These are rotary positions from the sines and cosines of stacked halves, convolutions over frames in channels-first
    memory, and attention masks expanded to every head and query.
    """
    attend, rotate, convolve = F.scaled_dot_product_attention, layers.apply_rotary, layers.conv1d_channels_last

    def rotate_by_halves(x: Tensor, rotations: Tensor) -> Tensor:
        cos, sin = (part.repeat_interleave(2, dim=-1).to(x.dtype) for part in (rotations.real, rotations.imag))
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * cos + torch.stack([-second, first], dim=-1).flatten(-2) * sin

    def attend_with_full_mask(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        full_mask = None if attn_mask is None else attn_mask.expand(*q.shape[:3], k.shape[2]).contiguous()
        return attend(q, k, v, attn_mask=full_mask)

    def convolve_frames(x: Tensor, layer: torch.nn.Conv1d) -> Tensor:
        return layer(x.transpose(1, 2)).transpose(1, 2)

    layers.F.scaled_dot_product_attention, layers.apply_rotary = attend_with_full_mask, rotate_by_halves
    layers.conv1d_channels_last = convolve_frames
    try:
        with torch_kernels():
            yield
    finally:
        layers.F.scaled_dot_product_attention, layers.apply_rotary, layers.conv1d_channels_last = (
            attend,
            rotate,
            convolve,
        )


def train_step(model: CFM, batch: SpeechBatch) -> None:
    """Compute loss and gradients of ordinary training."""
    settings = compose_config("F5TTS_v1_Base", [], TrainConfig).model
    for output in InfillingLoss(settings)(model, [batch]):
        output.loss.backward()


def measure(job: Job) -> Cost:
    """Measure one run of the job, after a small one to warm up."""
    torch.set_num_threads(job.threads)
    replace(job, batch=1).ready()()
    run = job.ready()
    started = time.process_time()
    run()
    return Cost(time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def in_its_own_process(job: Job) -> Cost:
    """Measure the job in a separate process."""
    command = [sys.executable, __file__, "--job", json.dumps(vars(job))]
    return Cost(*json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def compare(job: Job, ways: list[str], rounds: int) -> dict[str, Cost]:
    """Return the lowest cost of each way over alternating rounds, because a machine's speed varies over minutes."""
    runs = [{way: in_its_own_process(replace(job, way=way)) for way in ways} for _ in range(rounds)]
    return {way: min(run[way] for run in runs) for way in ways}


def table(precisions: list[str], rounds: int) -> None:
    """Print one row per job: this project, common practice, and the speed-up in CPU seconds."""
    print("| job | threads | precision | ours, CPU s | plain, CPU s | faster | ours, MiB | plain, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    tasks = [("sample", 1), ("sample", 4), ("sample", 8), ("train", 4)]
    for (task, batch), threads, precision in product(tasks, (1, 2), precisions):
        job = Job(task, batch, precision, threads, "ours")
        found = compare(job, ["ours", "plain"], rounds)
        ours, plain = found["ours"], found["plain"]
        print(
            f"| {task}, batch {batch} | {threads} | {precision} | {ours.seconds:.2f} | {plain.seconds:.2f} | "
            f"{plain.seconds / ours.seconds:.2f} | {ours.mib:.0f} | {plain.mib:.0f} |",
            flush=True,
        )


def profile(job: Job) -> str:
    """Return a report of a job's CPU time by operator, and the share of matrix multiplications."""
    torch.set_num_threads(job.threads)
    run = job.ready()
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        run()
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    share = sum(us for name, us in spent.items() if any(part in name for part in MATMULS)) / sum(spent.values())
    top = sorted(spent, key=lambda name: -spent[name])[:12]
    rows = [f"{spent[name] / sum(spent.values()):6.1%}  {name}" for name in top]
    return "\n".join([f"{job}: {share:.0%} in matrix multiplication, convolution and attention", *rows])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=2, help="runs of each job; the cheapest counts")
    parser.add_argument("--profile", action="store_true", help="say where our time goes")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(measure(Job(**arguments.job))))
    elif arguments.profile:
        for task, precision in product(("sample", "train"), arguments.precisions):
            print(profile(Job(task, 4, precision, 1, "ours")))
    else:
        table(arguments.precisions, arguments.rounds)


if __name__ == "__main__":
    main()
