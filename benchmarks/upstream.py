"""Benchmark of this project beside F5-TTS: CPU seconds of sampling and of a training step, of models of one size.

F5-TTS is installed in an environment of its own, whose interpreter is named: `python benchmarks/upstream.py
head-env/bin/python`. Each side has one process with one thread; the two take turns, and the least of the rounds counts.
The speed of matrix products, which is the machine's limit, is measured in the same run. The model is that of `speed.py`
with dropout 0.1: dim 256, 6 blocks, clips of 300 frames, random weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType

import torch
import torch.nn.functional as F

FRAMES, TOKENS, MEL_BINS, SYMBOLS = 300, 60, 100, 256
STEPS, GUIDANCE, SWAY = 16, 2.0, -1.0
ARCH = {"dim": 256, "depth": 6, "heads": 4, "ff_mult": 2, "text_dim": 128, "conv_layers": 4, "dropout": 0.1}
JOBS = {"training step, batch 4": ("train", 4), "16 steps of sampling, batch 8": ("sample", 8)}
PRECISIONS = ("fp32", "bf16")
PRODUCTS = 100  # of a measurement of the limit
Work = Callable[[], object]


def lens_of(num: int) -> torch.Tensor:
    """Return lengths in frames: each item after the first is 5 frames shorter, so that there is padding."""
    return FRAMES - 5 * torch.arange(num)


def ours(task: str, num: int) -> Work:
    """Build a job of this project."""
    from dataclasses import replace

    from f5_tts.config.load import compose_config
    from f5_tts.config.schema import TrainConfig
    from f5_tts.data.tokenizer import Vocabulary
    from f5_tts.entrypoint import tune_malloc
    from f5_tts.infer.sample import sample
    from f5_tts.model.build import build_model
    from f5_tts.model.flow import time_grid
    from f5_tts.train.infilling import InfillingLoss
    from f5_tts.types import SpeechBatch

    tune_malloc()  # as every command does
    cfg = compose_config("F5TTS_v1_Base", [], TrainConfig).model
    cfg.arch = replace(cfg.arch, **ARCH)
    model = build_model(cfg, Vocabulary([chr(i) for i in range(SYMBOLS)])).train(task == "train")
    lens, mel = lens_of(num), torch.randn(num, FRAMES, MEL_BINS)
    prompt_lens, text = lens // 3, torch.randint(SYMBOLS, (num, TOKENS))
    if task == "sample":
        given = mel[:, : FRAMES // 3], prompt_lens, lens, text, torch.randn_like(mel), time_grid(STEPS, SWAY), GUIDANCE
        return lambda: sample(model, *given)
    batch = SpeechBatch(
        mel=mel,
        lens=lens,
        prompt_lens=prompt_lens,
        text=text,
        target_texts=[""] * num,
        group_ids=torch.arange(num),
        audio=[torch.zeros(1)] * num,
    )
    loss = InfillingLoss(cfg)
    return lambda: [output.loss.backward() for output in loss(model, [batch])]


def upstream(task: str, num: int) -> Work:
    """Build the same job of F5-TTS; the process runs in its environment."""
    from f5_tts.model.backbones.dit import DiT
    from f5_tts.model.cfm import CFM

    transformer = DiT(**ARCH, text_num_embeds=SYMBOLS, mel_dim=MEL_BINS, text_mask_padding=True)
    model = CFM(transformer).train(task == "train")
    lens, mel, text = lens_of(num), torch.randn(num, FRAMES, MEL_BINS), torch.randint(SYMBOLS, (num, TOKENS))
    if task == "sample":
        solver = {"steps": STEPS, "cfg_strength": GUIDANCE, "sway_sampling_coef": SWAY, "use_epss": False}
        return lambda: model.sample(mel[:, : FRAMES // 3], text, lens, lens=lens // 3, **solver)  # pyright: ignore
    return lambda: model(mel, text, lens=lens)[0].backward()


def answer(build: Callable[[str, int], Work]) -> None:
    """Run the jobs that the standard input names, and print the CPU seconds of each."""
    torch.set_num_threads(1)
    works: dict[str, Work] = {}
    for line in sys.stdin:
        title, precision = line.strip().split("|")
        work = works[title] = works.get(title) or build(*JOBS[title])
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            print(f"RESULT {cpu_seconds(work)}", flush=True)


def cpu_seconds(work: Work) -> float:
    """Measure the CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


class Side:
    """Process of one side, which keeps its models."""

    def __init__(self, python: str, name: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([python, __file__, "--side", name], **pipes)

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate()

    def seconds(self, title: str, precision: str) -> float:
        """Run a job once and return its CPU seconds; other lines, which libraries print, are passed over."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{title}|{precision}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("RESULT "):
                return float(line.split()[1])
        sys.exit(f"{self.process.args} ended without a result; its error is above")


def roof(precision: str) -> float:
    """Measure matrix products of the model's shapes, in GFLOP/s."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rows, width = 4 * FRAMES, ARCH["dim"]
    x, weight = torch.randn(rows, width).to(dtype), torch.randn(2 * width, width).to(dtype)
    seconds = cpu_seconds(lambda: [F.linear(x, weight) for _ in range(PRODUCTS)])
    return PRODUCTS * 2 * rows * width * 2 * width / seconds / 1e9


def table(head_python: str, rounds: int) -> None:
    """Print a row per job and precision, in the order in which they are measured."""
    torch.set_num_threads(1)
    print(
        "| job | precision | ours, CPU s | F5-TTS, CPU s | faster | products, GFLOP/s |\n|---|---|---:|---:|---:|---:|"
    )
    with Side(sys.executable, "ours") as our_side, Side(head_python, "upstream") as their_side:
        for title in JOBS:
            for precision in PRECISIONS:
                run = [partial(side.seconds, title, precision) for side in (our_side, their_side)]
                found = [(run[0](), run[1](), roof(precision)) for _ in range(rounds + 1)][1:]
                (we, they), fastest = (
                    (min(column) for column in list(zip(*found, strict=True))[:2]),
                    max(row[2] for row in found),
                )
                print(
                    f"| {title} | {precision} | {we:.3f} | {they:.3f} | {they / we:.2f} | {fastest:.0f} |", flush=True
                )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head_python", nargs="?", help="interpreter of the environment with F5-TTS")
    parser.add_argument("--rounds", type=int, default=5, help="measured runs of each job; the least counts")
    parser.add_argument("--side", choices=["ours", "upstream"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        answer({"ours": ours, "upstream": upstream}[arguments.side])
    elif arguments.head_python:
        table(arguments.head_python, arguments.rounds)
    else:
        parser.error("name the interpreter of an environment with F5-TTS, e.g. head-env/bin/python")


if __name__ == "__main__":
    main()
