"""The training loop of both stages: accumulate, clip, update, EMA, save, report. It knows no loss."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import FrameType
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator

from f5_tts.config import OptimConfig
from f5_tts.model.cfm import CFM
from f5_tts.train.report import Report
from f5_tts.train.state import CheckpointDir, Trainable
from f5_tts.types import LossOutput

Item = TypeVar("Item")
ComputeLoss = Callable[[CFM, Item], Iterable[LossOutput]]


def fit(
    trainable: Trainable,
    items: Iterator[Item],
    compute_loss: ComputeLoss[Item],
    *,
    accelerator: Accelerator,
    checkpoints: CheckpointDir,
    report: Report,
    optim: OptimConfig,
    total: int,
) -> bool:
    """Train until update `total`; False when the user stopped it before (the state is saved either way).

    `compute_loss` yields an item's loss in slices that add up to it; each is differentiated before the next is
    computed. A loss that is not finite never reaches an update or a file: it raises FloatingPointError.
    """
    model = accelerator.prepare(trainable.model)
    stop = StopSignal()
    while trainable.update < total and not stop.asked:
        started = time.perf_counter()
        torch.manual_seed(seed_of(optim.seed, trainable.update))
        collected: list[dict[str, float]] = []
        group = list(islice(items, optim.grad_accumulation_steps))
        if not group:
            break
        for item in group:
            for output in compute_loss(model, item):
                if not torch.isfinite(output.loss):
                    raise FloatingPointError(non_finite_message(output, trainable.update))
                accelerator.backward(output.loss / len(group))
                collected.append({name: float(value) for name, value in output.metrics.items()})
        metrics = merge(collected)
        norm = accelerator.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
        metrics |= {"grad_norm": float(norm), "lr": float(trainable.scheduler.get_last_lr()[0])}
        trainable.optimizer.step()
        trainable.scheduler.step()
        trainable.optimizer.zero_grad()
        trainable.update += 1
        trainable.ema.update()
        report(metrics | {"time/update": time.perf_counter() - started}, trainable.update)
        checkpoints.save_if_due(trainable)
    checkpoints.save_last(trainable)
    report.close()
    return not stop.asked


class StopSignal:
    """Ctrl-C or SIGTERM asks for a stop after this update; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self.before = {number: signal.signal(number, self.ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for restored, handler in self.before.items():
            signal.signal(restored, handler)


def seed_of(seed: int, update: int) -> int:
    """A seed for all that is drawn in one update."""
    return int(np.random.SeedSequence([seed, update]).generate_state(1)[0])


def merge(slices: list[dict[str, float]]) -> dict[str, float]:
    """One number a metric: the mean over slices, the largest where the name says max."""
    names = dict.fromkeys(name for metrics in slices for name in metrics)
    values = {name: [metrics[name] for metrics in slices if name in metrics] for name in names}
    return {name: max(seen) if "max" in name else sum(seen) / len(seen) for name, seen in values.items()}


def non_finite_message(output: LossOutput, update: int) -> str:
    seen = ", ".join(f"{name}={float(value):.4g}" for name, value in sorted(output.metrics.items()))
    return f"loss is {output.loss.item()} after update {update} ({seen}); try a lower optim.learning_rate"
