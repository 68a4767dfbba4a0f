"""The training loop of both stages: accumulate, clip, update, EMA, save, report. It knows no loss."""

from __future__ import annotations

import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from types import FrameType
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from f5_tts.config.schema import OptimConfig
from f5_tts.model.cfm import CFM
from f5_tts.model.fsdp import is_divided, undivided
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.distributed import any_process, weights_apart
from f5_tts.train.metrics_log import Report
from f5_tts.train.oom import Room, lack_of_memory_said
from f5_tts.train.sample_log import Listen
from f5_tts.train.train_state import Trainable
from f5_tts.types import LossOutput

Item = TypeVar("Item")
ComputeLoss = Callable[[CFM, Item], Iterable[LossOutput]]
Validate = Callable[[Trainable], dict[str, float]]


def nothing_due(trainable: Trainable) -> dict[str, float]:
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a run has beside what it learns: where it computes, writes and reports, and how far it goes."""

    accelerator: Accelerator
    checkpoints: CheckpointDir
    report: Report
    optim: OptimConfig
    total: int  # updates
    together: int = 1  # updates that learn from one rollout: a run is saved and stops between such


def fit(
    trainable: Trainable,
    policy: CFM,
    items: Iterator[Item],
    compute_loss: ComputeLoss[Item],
    run: Run,
    *,
    validate: Validate = nothing_due,
    listen: Listen[Item] | None = None,
) -> bool:
    """Train until update `run.total`; False when the user stopped it before (the state is saved either way).

    An item is what one update learns from. `policy` is the trainable's model as the accelerator prepared it.
    `compute_loss` yields an item's loss in slices that add up to it; each is differentiated before the next is
    computed. `validate` is asked before the first update and after each: what it measures joins that update's metrics.
    `listen` makes the samples of an update whose checkpoint is kept. A loss or gradient that is not finite never
    reaches weights or a file: its update is skipped, and after more than `optim.max_skips` of them in a row
    FloatingPointError ends the run. An update that memory does not suffice for is done in smaller parts, see `room.py`.
    Of several processes each draws noise of its own, and all stop after the same update, whichever was asked to.
    """
    accelerator, checkpoints, report, optim = run.accelerator, run.checkpoints, run.report, run.optim
    if trainable.update >= run.total:
        print(f"{checkpoints.path} holds all {run.total} updates of this run: nothing left to do")
        return True
    room = Room(report.say, is_alone=not optim.shard)
    with StopSignal() as stop:
        with closing(report), lack_of_memory_said():  # what ends the run is said below its bar
            if trainable.update == 0 and (measured := validate(trainable)):
                report(measured, 0)
            done, stopped = time.perf_counter(), False
            while trainable.update < run.total:
                if trainable.update % run.together == 0 and any_process(stop.asked, accelerator):
                    stopped = True
                    break
                started = time.perf_counter()
                set_seed(seed_of(optim.seed, trainable.update, accelerator.process_index))
                item = next(items, None)
                if item is None:
                    break
                metrics = improve(trainable, policy, item, compute_loss, accelerator, optim, room)
                metrics |= speed(metrics.pop("seconds"), time.perf_counter() - started) | memory()
                metrics |= validate(trainable)
                before, done = done, time.perf_counter()
                report(metrics | {"time/step": done - before}, trainable.update)
                if trainable.update % run.together == 0:
                    checkpoints.save_if_due(trainable)
                if listen is not None and checkpoints.is_kept(trainable.update):
                    report.show(listen(trainable.model, item), trainable.update)
        checkpoints.save_last(trainable)  # a signal meanwhile waits
    checkpoints.let_others_in()
    return not stopped


def improve(
    trainable: Trainable,
    policy: CFM,
    item: Item,
    compute_loss: ComputeLoss[Item],
    accelerator: Accelerator,
    optim: OptimConfig,
    room: Room,
) -> dict[str, float]:
    """One update from an item; what its slices measured, merged, and `seconds` of speech.

    Where a loss or the gradient is not finite, on any process, none takes the step; counter, schedule and average go
    on, so that a resumed run meets the same updates. In fp16 the loss is scaled up, by less after a gradient that was
    too large for that, by more after many that were not.
    """
    say = room.say
    slices = room.within(item, lambda parts: learn(policy, parts, compute_loss, accelerator), trainable.optimizer)
    losses, metrics = [part.loss.item() for part in slices], merge([part.metrics for part in slices])
    average_gradients(trainable.model, accelerator)
    accelerator.unscale_gradients(trainable.optimizer)
    norm = undivided(accelerator.clip_grad_norm_(policy.parameters(), optim.max_grad_norm)).item()
    loss = sum(losses, 0.0)
    if is_finite_everywhere(loss, norm, accelerator):
        trainable.skips.count(False)
        if losses:  # none where no row of the update's batches can be read
            trainable.optimizer.step()
    elif overflowed(loss, accelerator):
        trainable.skips.total += 1
        say(f"update {trainable.update + 1} skipped: its gradient is too large for fp16; the scale is lowered")
    else:
        skip(trainable, non_finite_message(loss, norm, metrics, trainable.update), optim.max_skips, say)
    if accelerator.scaler is not None and losses:
        accelerator.scaler.update()
    metrics |= {
        "seconds": sum((part.seconds for part in slices), 0.0),
        "grad_norm": norm,
        "lr": float(trainable.scheduler.get_last_lr()[0]),
    }
    metrics["health/nonfinite_skips"] = float(trainable.skips.total)
    metrics["health/bad_rows"] = float(len(trainable.bad_rows))
    metrics["health/oom_retries"] = float(room.retries)
    trainable.scheduler.step()
    trainable.optimizer.zero_grad()
    trainable.update += 1
    trainable.ema.update()
    return metrics | weights_apart(trainable.model, accelerator, trainable.update)


def learn(policy: CFM, item: Item, compute_loss: ComputeLoss[Item], accelerator: Accelerator) -> list[LossOutput]:
    """Add the gradients of an item's loss, slice by slice; the slices, without what they were computed from."""
    slices = []
    for output in compute_loss(policy, item):
        accelerator.backward(output.loss)
        slices.append(replace(output, loss=output.loss.detach()))
    return slices


def is_finite_everywhere(loss: float, norm: float, accelerator: Accelerator) -> bool:
    """Whether loss and gradient norm are finite, on every process."""
    return not any_process(not math.isfinite(loss + norm), accelerator)


def overflowed(loss: float, accelerator: Accelerator) -> bool:
    """Whether an update that is not finite had a gradient too large for fp16, and can have a smaller one next time."""
    scaler = accelerator.scaler
    return scaler is not None and scaler.get_scale() > 1 and is_finite_everywhere(loss, 0.0, accelerator)


def keep_scale(trainable: Trainable, accelerator: Accelerator) -> None:
    """Let checkpoints hold by how much fp16 scales the loss."""
    if accelerator.scaler is not None:
        trainable.extras["scaler"] = accelerator.scaler


def skip(trainable: Trainable, message: str, most: int, say: Callable[[str], None]) -> None:
    """Count an update that is left out, and say so; raises FloatingPointError for one in a row too many."""
    trainable.skips.count(True)
    in_a_row = trainable.skips.in_a_row
    if in_a_row > most:
        raise FloatingPointError(message)
    say(f"update {trainable.update + 1} skipped, {in_a_row} in a row of at most optim.max_skips={most}: {message}")


def non_finite_message(loss: float, norm: float, metrics: dict[str, float], update: int) -> str:
    """What was not finite, when, and what else was measured then."""
    values = {"loss": loss, "gradient norm": norm}
    broken = next((f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)), None)
    seen = ", ".join(f"{name}={number:.4g}" for name, number in sorted(metrics.items()))
    what = broken or "a loss or gradient of another process is not finite"
    return f"{what} after update {update} ({seen}); try a lower optim.learning_rate"


def average_gradients(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """The mean over all processes, once an update, however many slices each of them had; shards have it already."""
    if accelerator.num_processes > 1:
        for parameter in model.parameters():
            if parameter.grad is not None and not is_divided(parameter):
                parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")  # pyright: ignore


def speed(seconds: float, took_s: float) -> dict[str, float]:
    """Of an update that learnt from so many seconds of speech; of those that drew none, the time alone."""
    throughput = {"throughput/audio_seconds": seconds / took_s} if seconds else {}
    return {"time/update": took_s, **throughput}


def memory() -> dict[str, float]:
    """MiB, the most so far: of the GPU's tensors, of what torch holds there, and of this process where the system
    counts it (not on Windows)."""
    used: dict[str, float] = {}
    if torch.cuda.is_available():
        used["mem/peak_allocated_mb"] = torch.cuda.max_memory_allocated() / 2**20
        used["mem/reserved_mb"] = torch.cuda.max_memory_reserved() / 2**20
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        used["mem/peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return used


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


def seed_of(seed: int, update: int, process: int = 0) -> int:
    """A seed for all that a process draws in one update."""
    return int(np.random.SeedSequence([seed, update]).generate_state(process + 1)[process])


def merge(slices: list[dict[str, float]]) -> dict[str, float]:
    """One number a metric: the mean over slices, or the extreme that its name asks for."""
    names = dict.fromkeys(name for metrics in slices for name in metrics)
    values = {name: [metrics[name] for metrics in slices if name in metrics] for name in names}
    return {name: reduction(name)(seen) for name, seen in values.items()}


def reduction(name: str) -> Callable[[list[float]], float]:
    words = set(re.split(r"[/_]", name))
    return max if "max" in words else min if "min" in words else mean


def mean(values: list[float]) -> float:
    """NaN of inf and -inf, where statistics.fmean raises."""
    return sum(values) / len(values)
