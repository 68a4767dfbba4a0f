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
from f5_tts.model.fsdp import is_dtensor, to_full
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.distributed import any_rank, check_weights_in_sync
from f5_tts.train.metrics_log import MetricsLog
from f5_tts.train.oom import OomRetry, explain_oom
from f5_tts.train.sample_log import MakeSamples
from f5_tts.train.train_state import TrainState
from f5_tts.types import LossOutput

Item = TypeVar("Item")
ComputeLoss = Callable[[CFM, Item], Iterable[LossOutput]]
Validate = Callable[[TrainState], dict[str, float]]


def no_validation(state: TrainState) -> dict[str, float]:
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopContext:
    """What a run has beside what it learns: where it computes, writes and reports, and how far it goes."""

    accelerator: Accelerator
    checkpoints: CheckpointDir
    metrics_log: MetricsLog
    optim: OptimConfig
    total: int  # updates
    updates_per_rollout: int = 1  # updates that learn from one rollout: a run is saved and stops between such


def fit(
    state: TrainState,
    policy: CFM,
    items: Iterator[Item],
    compute_loss: ComputeLoss[Item],
    context: LoopContext,
    *,
    validate: Validate = no_validation,
    make_samples: MakeSamples[Item] | None = None,
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
    accelerator, checkpoints, metrics_log, optim = (
        context.accelerator,
        context.checkpoints,
        context.metrics_log,
        context.optim,
    )
    if state.update >= context.total:
        print(f"{checkpoints.path} holds all {context.total} updates of this run: nothing left to do")
        return True
    oom_retry = OomRetry(metrics_log.write_line, can_retry=not optim.shard)
    with GracefulStop() as stop:
        with closing(metrics_log), explain_oom():  # what ends the run is said below its bar
            if state.update == 0 and (start_metrics := validate(state)):
                metrics_log(start_metrics, 0)
            done, stopped = time.perf_counter(), False
            while state.update < context.total:
                if state.update % context.updates_per_rollout == 0 and any_rank(stop.requested, accelerator):
                    stopped = True
                    break
                started = time.perf_counter()
                set_seed(update_seed(optim.seed, state.update, accelerator.process_index))
                item = next(items, None)
                if item is None:
                    break
                metrics = train_update(state, policy, item, compute_loss, accelerator, optim, oom_retry)
                metrics |= throughput_metrics(metrics.pop("seconds"), time.perf_counter() - started) | memory_metrics()
                metrics |= validate(state)
                before, done = done, time.perf_counter()
                metrics_log(metrics | {"time/step": done - before}, state.update)
                if state.update % context.updates_per_rollout == 0:
                    checkpoints.save_if_due(state)
                if make_samples is not None and checkpoints.is_saved_at(state.update):
                    metrics_log.log_samples(make_samples(state.model, item), state.update)
        checkpoints.save_last(state)  # a signal meanwhile waits
    checkpoints.release_lock()
    return not stopped


def train_update(
    state: TrainState,
    policy: CFM,
    item: Item,
    compute_loss: ComputeLoss[Item],
    accelerator: Accelerator,
    optim: OptimConfig,
    oom_retry: OomRetry,
) -> dict[str, float]:
    """One update from an item; what its slices measured, merged, and `seconds` of speech.

    Where a loss or the gradient is not finite, on any process, none takes the step; counter, schedule and average go
    on, so that a resumed run meets the same updates. In fp16 the loss is scaled up, by less after a gradient that was
    too large for that, by more after many that were not.
    """
    log = oom_retry.log
    slices = oom_retry.run(
        item, lambda chunks: accumulate_gradients(policy, chunks, compute_loss, accelerator), state.optimizer
    )
    losses, metrics = [output.loss.item() for output in slices], merge_metrics([output.metrics for output in slices])
    average_gradients(state.model, accelerator)
    accelerator.unscale_gradients(state.optimizer)
    norm = to_full(accelerator.clip_grad_norm_(policy.parameters(), optim.max_grad_norm)).item()
    loss = sum(losses, 0.0)
    if is_finite_everywhere(loss, norm, accelerator):
        state.skips.count(False)
        if losses:  # none where no row of the update's batches can be read
            state.optimizer.step()
    elif is_fp16_overflow(loss, accelerator):
        state.skips.total += 1
        log(f"update {state.update + 1} skipped: its gradient is too large for fp16; the scale is lowered")
    else:
        skip_update(state, non_finite_message(loss, norm, metrics, state.update), optim.max_skips, log)
    if accelerator.scaler is not None and losses:
        accelerator.scaler.update()
    metrics |= {
        "seconds": sum((output.seconds for output in slices), 0.0),
        "grad_norm": norm,
        "lr": float(state.scheduler.get_last_lr()[0]),
    }
    metrics["health/nonfinite_skips"] = float(state.skips.total)
    metrics["health/bad_rows"] = float(len(state.bad_rows))
    metrics["health/oom_retries"] = float(oom_retry.retries)
    state.scheduler.step()
    state.optimizer.zero_grad()
    state.update += 1
    state.ema.update()
    return metrics | check_weights_in_sync(state.model, accelerator, state.update)


def accumulate_gradients(
    policy: CFM, item: Item, compute_loss: ComputeLoss[Item], accelerator: Accelerator
) -> list[LossOutput]:
    """Add the gradients of an item's loss, slice by slice; the slices, without what they were computed from."""
    slices = []
    for output in compute_loss(policy, item):
        accelerator.backward(output.loss)
        slices.append(replace(output, loss=output.loss.detach()))
    return slices


def is_finite_everywhere(loss: float, norm: float, accelerator: Accelerator) -> bool:
    """Whether loss and gradient norm are finite, on every process."""
    return not any_rank(not math.isfinite(loss + norm), accelerator)


def is_fp16_overflow(loss: float, accelerator: Accelerator) -> bool:
    """Whether an update that is not finite had a gradient too large for fp16, and can have a smaller one next time."""
    scaler = accelerator.scaler
    return scaler is not None and scaler.get_scale() > 1 and is_finite_everywhere(loss, 0.0, accelerator)


def register_grad_scaler(state: TrainState, accelerator: Accelerator) -> None:
    """Let checkpoints hold by how much fp16 scales the loss."""
    if accelerator.scaler is not None:
        state.stateful["scaler"] = accelerator.scaler


def skip_update(state: TrainState, message: str, max_skips: int, log: Callable[[str], None]) -> None:
    """Count an update that is left out, and say so; raises FloatingPointError for one in a row too many."""
    state.skips.count(True)
    in_a_row = state.skips.in_a_row
    if in_a_row > max_skips:
        raise FloatingPointError(message)
    log(f"update {state.update + 1} skipped, {in_a_row} in a row of at most optim.max_skips={max_skips}: {message}")


def non_finite_message(loss: float, norm: float, metrics: dict[str, float], update: int) -> str:
    """What was not finite, when, and what else was measured then."""
    values = {"loss": loss, "gradient norm": norm}
    non_finite = next((f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)), None)
    measured = ", ".join(f"{name}={number:.4g}" for name, number in sorted(metrics.items()))
    problem = non_finite or "a loss or gradient of another process is not finite"
    return f"{problem} after update {update} ({measured}); try a lower optim.learning_rate"


def average_gradients(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """The mean over all processes, once an update, however many slices each of them had; shards have it already."""
    if accelerator.num_processes > 1:
        for parameter in model.parameters():
            if parameter.grad is not None and not is_dtensor(parameter):
                parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")  # pyright: ignore


def throughput_metrics(seconds: float, duration_s: float) -> dict[str, float]:
    """Of an update that learnt from so many seconds of speech; of those that drew none, the time alone."""
    throughput = {"throughput/audio_seconds": seconds / duration_s} if seconds else {}
    return {"time/update": duration_s, **throughput}


def memory_metrics() -> dict[str, float]:
    """MiB, the most so far: of the GPU's tensors, of what torch holds there, and of this process where the system
    counts it (not on Windows)."""
    metrics: dict[str, float] = {}
    if torch.cuda.is_available():
        metrics["mem/peak_allocated_mb"] = torch.cuda.max_memory_allocated() / 2**20
        metrics["mem/reserved_mb"] = torch.cuda.max_memory_reserved() / 2**20
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        metrics["mem/peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return metrics


class GracefulStop:
    """Ctrl-C or SIGTERM asks for a stop after this update; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> GracefulStop:
        self.previous_handlers = {
            number: signal.signal(number, self.request_stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.restore()

    def restore(self) -> None:
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def __exit__(self, *error: object) -> None:
        self.restore()


def update_seed(seed: int, update: int, process: int = 0) -> int:
    """A seed for all that a process draws in one update."""
    return int(np.random.SeedSequence([seed, update]).generate_state(process + 1)[process])


def merge_metrics(outputs: list[dict[str, float]]) -> dict[str, float]:
    """One number a metric: the mean over slices, or the extreme that its name asks for."""
    names = dict.fromkeys(name for metrics in outputs for name in metrics)
    values = {name: [metrics[name] for metrics in outputs if name in metrics] for name in names}
    return {name: reduction(name)(numbers) for name, numbers in values.items()}


def reduction(name: str) -> Callable[[list[float]], float]:
    name_parts = set(re.split(r"[/_]", name))
    return max if "max" in name_parts else min if "min" in name_parts else mean


def mean(values: list[float]) -> float:
    """NaN of inf and -inf, where statistics.fmean raises."""
    return sum(values) / len(values)
