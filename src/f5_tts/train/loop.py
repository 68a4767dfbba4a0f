"""The training loop of both stages: accumulate, clip, update, EMA, save, report. It knows no loss."""

from __future__ import annotations

import math
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from statistics import fmean
from types import FrameType
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator

from f5_tts.model.cfm import CFM
from f5_tts.sections import OptimConfig
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
    together: int = 1,
) -> bool:
    """Train until update `total`; False when the user stopped it before (the state is saved either way).

    An item is what one update learns from. `policy` is the trainable's model as the accelerator prepared it.
    `compute_loss` yields an item's loss in slices that add up to it; each is differentiated before the next is
    computed. So many updates belong `together`, that learn from one rollout: a run is saved and stops between them. A
    loss or gradient that is not finite never reaches an update or a file: it raises FloatingPointError.
    """
    if trainable.update >= total:
        print(f"{checkpoints.path} holds all {total} updates of this run: nothing left to do")
        return True
    with StopSignal() as stop:
        while trainable.update < total and not (stop.asked and trainable.update % together == 0):
            started = time.perf_counter()
            torch.manual_seed(seed_of(optim.seed, trainable.update))
            item = next(items, None)
            if item is None:
                break
            metrics = improve(trainable, policy, item, compute_loss, accelerator, optim.max_grad_norm)
            report(metrics | {"time/update": time.perf_counter() - started}, trainable.update)
            if trainable.update % together == 0:
                checkpoints.save_if_due(trainable)
    checkpoints.save_last(trainable)
    report.close()
    return trainable.update >= total or not stop.asked


def improve(
    trainable: Trainable,
    policy: CFM,
    item: Item,
    compute_loss: ComputeLoss[Item],
    accelerator: Accelerator,
    max_grad_norm: float,
) -> dict[str, float]:
    """One update from an item; what its slices measured, merged."""
    seen: list[dict[str, float]] = []
    for output in compute_loss(policy, item):
        check_finite("loss", output.loss.item(), output.metrics, trainable.update)
        accelerator.backward(output.loss)
        seen.append(output.metrics)
    average_gradients(trainable.model, accelerator)
    norm = torch.as_tensor(accelerator.clip_grad_norm_(policy.parameters(), max_grad_norm)).item()
    metrics = merge(seen)
    check_finite("gradient norm", norm, metrics, trainable.update)
    metrics |= {"grad_norm": norm, "lr": float(trainable.scheduler.get_last_lr()[0])}
    trainable.optimizer.step()
    trainable.scheduler.step()
    trainable.optimizer.zero_grad()
    trainable.update += 1
    trainable.ema.update()
    return metrics


def average_gradients(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """The mean over all processes, once an update, however many slices each of them had."""
    if accelerator.num_processes > 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")  # pyright: ignore


class StopSignal:
    """Ctrl-C or SIGTERM asks for a stop after this update; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> StopSignal:
        self.before = {number: signal.signal(number, self.ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.restore()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __exit__(self, *error: object) -> None:
        self.restore()


def seed_of(seed: int, update: int) -> int:
    """A seed for all that is drawn in one update."""
    return int(np.random.SeedSequence([seed, update]).generate_state(1)[0])


def merge(slices: list[dict[str, float]]) -> dict[str, float]:
    """One number a metric: the mean over slices, or the extreme that its name asks for."""
    names = dict.fromkeys(name for metrics in slices for name in metrics)
    values = {name: [metrics[name] for metrics in slices if name in metrics] for name in names}
    return {name: reduction(name)(seen) for name, seen in values.items()}


def reduction(name: str) -> Callable[[list[float]], float]:
    words = set(re.split(r"[/_]", name))
    return max if "max" in words else min if "min" in words else fmean


def check_finite(what: str, value: float, metrics: dict[str, float], update: int) -> None:
    """Raises FloatingPointError with what was measured; weights and files are as the last update left them."""
    if not math.isfinite(value):
        seen = ", ".join(f"{name}={number:.4g}" for name, number in sorted(metrics.items()))
        raise FloatingPointError(f"{what} is {value} after update {update} ({seen}); try a lower optim.learning_rate")
