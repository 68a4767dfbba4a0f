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
    policy: CFM,
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

    `policy` is the trainable's model as the accelerator wrapped it. `compute_loss` yields an item's loss in slices
    that add up to it; each is differentiated before the next is computed. A loss that is not
    finite never reaches an update or a file: it raises FloatingPointError.
    """
    if trainable.update >= total:
        print(f"{checkpoints.path} holds all {total} updates of this run: nothing left to do")
        return True
    stop = StopSignal()
    while trainable.update < total and not stop.asked:
        started = time.perf_counter()
        torch.manual_seed(seed_of(optim.seed, trainable.update))
        collected: list[dict[str, float]] = []
        group = list(islice(items, optim.grad_accumulation_steps))
        if not group:
            break
        for item in group:
            for output in compute_loss(policy, item):
                if not torch.isfinite(output.loss):
                    raise FloatingPointError(non_finite_message(output, trainable.update))
                accelerator.backward(output.loss / len(group))
                collected.append(output.metrics)
        metrics = merge(collected)
        norm = accelerator.clip_grad_norm_(policy.parameters(), optim.max_grad_norm)
        metrics |= {"grad_norm": torch.as_tensor(norm).item(), "lr": float(trainable.scheduler.get_last_lr()[0])}
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
    seen = ", ".join(f"{name}={value:.4g}" for name, value in sorted(output.metrics.items()))
    return f"loss is {output.loss.item()} after update {update} ({seen}); try a lower optim.learning_rate"
