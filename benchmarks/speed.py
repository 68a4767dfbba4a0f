"""How fast and how large: sampling and a training step of a small model, ours beside the usual way, in one run.

`python benchmarks/speed.py` prints a table: CPU seconds and peak memory of each job, at 1 and 2 threads, in single
precision and bfloat16. "Plain" is how such models are usually sampled: guidance as two passes, the text embedded
again at every step, positions turned by stacked halves, masks written out for every head and query. `--profile` says
where the time goes.
Every job runs in a process of its own; run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from f5_tts.config import RunConfig, compose_run
from f5_tts.data.text import Vocabulary
from f5_tts.infer.sample import sample
from f5_tts.model.backbones import layers
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM, padding_mask
from f5_tts.model.flow import solve, time_grid
from f5_tts.train.warmup import InfillingLoss
from f5_tts.types import SpeechBatch

FRAMES, TOKENS, MEL_BINS, SYMBOLS = 300, 60, 100, 256
STEPS, GUIDANCE = 16, 2.0
SMALL = {"dim": 256, "depth": 6, "heads": 4, "ff_mult": 2, "text_dim": 128, "conv_layers": 4, "dropout": 0.0}
MATMULS = ("addmm", "mm", "bmm", "convolution", "flash_attention", "scaled_dot_product")  # in names of operators


@dataclass(frozen=True)
class Job:
    """One thing to time."""

    task: str  # sample or train
    batch: int
    precision: str  # fp32 or bf16
    threads: int
    way: str  # ours or plain

    def run(self) -> None:
        model, speech = small_model(), batch_of(self.batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            if self.task == "train":
                train_step(model, speech)
            elif self.way == "ours":
                draw(model, speech)
            else:
                with usual_attention():
                    draw_plainly(model, speech)


def small_model() -> CFM:
    torch.manual_seed(0)
    run = compose_run("F5TTS_v1_Base", [], RunConfig)
    run.model.arch = replace(run.model.arch, **SMALL)
    return build_model(run.model, Vocabulary([chr(i) for i in range(SYMBOLS)]))


def batch_of(num: int) -> SpeechBatch:
    """Items of 300 frames; from the second on each a little shorter, so that there is padding to mask."""
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
    """Speech as we sample it."""
    times = time_grid(STEPS, -1.0)
    prompt = batch.mel[:, : FRAMES // 3]
    return sample(model, prompt, batch.prompt_lens, batch.lens, batch.text, noise_like(batch), times, GUIDANCE)


@torch.no_grad()
def draw_plainly(model: CFM, batch: SpeechBatch) -> Tensor:
    """The same speech the usual way."""
    frames = torch.arange(FRAMES)
    given = frames < batch.prompt_lens[:, None]
    cond = batch.mel.masked_fill(~given[..., None], 0.0)
    mask, yes = padding_mask(batch.lens, FRAMES), torch.ones(len(batch.lens), dtype=torch.bool)

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        with_text = model(x, cond, batch.text, time, mask).mean
        without = model(x, cond, batch.text, time, mask, drop_audio=yes, drop_text=yes).mean
        return with_text + GUIDANCE * (with_text - without)

    return torch.where(given[..., None], cond, solve(velocity, noise_like(batch), time_grid(STEPS, -1.0)))


def noise_like(batch: SpeechBatch) -> Tensor:
    return torch.randn(batch.mel.shape, generator=torch.Generator().manual_seed(1))


@contextmanager
def usual_attention() -> Iterator[None]:
    """Positions turned by sines and cosines of stacked halves, masks with an entry for every head and query."""
    attend, rotate = F.scaled_dot_product_attention, layers.rotate

    def rotate_by_halves(x: Tensor, turns: Tensor) -> Tensor:
        cos, sin = (part.repeat_interleave(2, dim=-1).to(x.dtype) for part in (turns.real, turns.imag))
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * cos + torch.stack([-second, first], dim=-1).flatten(-2) * sin

    def attend_with_whole_mask(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        whole = None if attn_mask is None else attn_mask.expand(*q.shape[:3], k.shape[2]).contiguous()
        return attend(q, k, v, attn_mask=whole)

    layers.F.scaled_dot_product_attention, layers.rotate = attend_with_whole_mask, rotate_by_halves
    try:
        yield
    finally:
        layers.F.scaled_dot_product_attention, layers.rotate = attend, rotate


def train_step(model: CFM, batch: SpeechBatch) -> None:
    """Loss and gradients of ordinary training."""
    settings = compose_run("F5TTS_v1_Base", [], RunConfig).model
    for output in InfillingLoss(settings)(model, batch):
        output.loss.backward()


def measure(job: Job) -> dict[str, float]:
    """CPU seconds of the fastest of three runs after one to warm up, and the process's peak memory."""
    torch.set_num_threads(job.threads)
    job.run()
    spent = []
    for _ in range(3):
        cpu, wall = time.process_time(), time.perf_counter()
        job.run()
        spent.append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        "cpu": min(cpu for cpu, _ in spent),
        "wall": min(wall for _, wall in spent),
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def in_its_own_process(job: Job) -> dict[str, float]:
    command = [sys.executable, __file__, "--job", json.dumps(vars(job))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table(show: Callable[[str], None] = print) -> None:
    """One row a job: ours, plain, and how many times faster ours is (by CPU seconds)."""
    show("| job | threads | precision | ours, CPU s | plain, CPU s | faster | ours, MiB | plain, MiB |")
    show("|---|---|---|---|---|---|---|---|")
    for task, batch in (("sample", 1), ("sample", 4), ("sample", 8), ("train", 4)):
        for threads in (1, 2):
            for precision in ("fp32", "bf16"):
                job = Job(task, batch, precision, threads, "ours")
                ours = in_its_own_process(job)
                plain = in_its_own_process(replace(job, way="plain")) if task == "sample" else None
                shown = f"{ours['cpu']:.2f} | " + (
                    f"{plain['cpu']:.2f} | {plain['cpu'] / ours['cpu']:.2f} | {ours['mib']:.0f} | {plain['mib']:.0f}"
                    if plain
                    else f" | | {ours['mib']:.0f} | "
                )
                show(f"| {task}, batch {batch} | {threads} | {precision} | {shown} |")


def profile(job: Job) -> str:
    """Where the CPU time of a job goes, and the share of matrix multiplications."""
    torch.set_num_threads(job.threads)
    job.run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        job.run()
    spent = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    share = sum(us for name, us in spent.items() if any(part in name for part in MATMULS)) / sum(spent.values())
    top = sorted(spent, key=lambda name: -spent[name])[:12]
    rows = [f"{spent[name] / sum(spent.values()):6.1%}  {name}" for name in top]
    return "\n".join([f"{job}: {share:.0%} in matrix multiplication, convolution and attention", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true", help="say where the time of sampling goes")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(measure(Job(**arguments.job))))
    elif arguments.profile:
        for precision in ("fp32", "bf16"):
            print(profile(Job("sample", 4, precision, 1, "ours")))
    else:
        table()


if __name__ == "__main__":
    main()
