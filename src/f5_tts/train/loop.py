"""Training loop of both stages: accumulate gradients, clip, step, EMA, save, report. It knows no loss."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from f5_tts.config.schema import OptimConfig
from f5_tts.model.cfm import CFM
from f5_tts.model.fsdp import is_dtensor, to_full
from f5_tts.plugins import USERS_CODE, exit_is_error
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.distributed import AllRanks, any_rank, check_weights_in_sync
from f5_tts.train.ending import GracefulStop, close_on_exit, save_on_error
from f5_tts.train.metrics_log import MetricsLog
from f5_tts.train.oom import OomRetry, explain_oom
from f5_tts.train.sample_log import MakeSamples
from f5_tts.train.train_state import TrainState
from f5_tts.types import LossOutput

COMPARED_EVERY = 50  # updates from one comparison of the weights of all ranks to the next
BUCKET_BYTES = 25 * 2**20  # bytes of gradients that are averaged over the ranks at once
Item = TypeVar("Item")
ComputeLoss = Callable[[CFM, Item], Iterable[LossOutput]]
Validate = Callable[[TrainState], dict[str, float]]
Ending = Literal["complete", "stopped", "alarm"]  # what ended a run: no updates or items left, the user, an alarm


def no_validation(state: TrainState) -> dict[str, float]:
    """Return no metrics: the default where nothing is validated."""
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopContext:
    """What the training loop needs besides the model: devices, checkpoints, metrics, settings and length."""

    accelerator: Accelerator
    checkpoints: CheckpointDir
    metrics_log: MetricsLog
    optim: OptimConfig
    total: int  # number of updates
    updates_per_rollout: int = 1  # updates that use the same rollout; a run is saved and stopped only between rollouts
    stop_alarm: str | None = None  # alarm that ends the run when it is active


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
    """Train until the last update; return False if the user stopped the run before (the state is saved either way).

    An active `stop_alarm` ends the run as its last update does, and a run that is resumed with it makes no update.

    An item is what one update is computed from. `policy` is the model as the accelerator prepared it. `compute_loss`
    yields the loss of an item in slices that add up to it; the backward pass of each runs before the next slice is
    computed. `validate` is called before the first update and after each one, and its metrics are merged into those of
    the update. The samples of an update are made and written only if its checkpoint is kept.

    A loss or gradient that is not finite never reaches weights or a file: its update is skipped. After more than
    `optim.max_skips` skips in a row, FloatingPointError ends the run. An update that runs out of memory is repeated in
    smaller micro-batches, see `oom.py`. Each rank draws its own noise, and all ranks stop after the same update,
    whichever of them received the signal.
    """
    if has_all_updates(state, context):
        return True
    checkpoints = context.checkpoints
    context.accelerator.wait_for_everyone()  # until all ranks have read their checkpoint
    checkpoints.set_aside_others(state)
    with GracefulStop(checkpoints.is_main) as stop:
        with explained_errors(state, context):
            ending = make_updates(state, policy, items, compute_loss, context, stop, validate, make_samples)
        check_weights_in_sync(state.model, context.accelerator, state.update)
        checkpoints.save_end(state)  # a signal does not interrupt the save
    checkpoints.release_lock()
    if ending == "alarm":
        context.accelerator.print(
            f"the run ended after update {state.update} of {context.total}, because the alarm {context.stop_alarm} is "
            f"active: {checkpoints.path} has this state and model_best.pt; rl.stop_when=null goes on from here"
        )
    return ending != "stopped"


def has_all_updates(state: TrainState, context: LoopContext) -> bool:
    """Check whether the run made its last update before, and say so."""
    if state.update < context.total:
        return False
    beyond = "" if state.update == context.total else f", and is at update {state.update}"
    run = f"this run ({state.describe_run()}){beyond}"
    context.accelerator.print(
        f"{context.checkpoints.path} holds all {context.total} updates of {run}: nothing left to do"
    )
    return True


@contextmanager
def explained_errors(state: TrainState, context: LoopContext) -> Iterator[None]:
    """Save the state where training raises an error, and end the metrics before the error is printed with its cure."""
    with (
        save_on_error(state, context.checkpoints),
        context.checkpoints.explain_divergence(state),
        close_on_exit(context.metrics_log),
        explain_oom(),
        exit_is_error(USERS_CODE),
    ):
        yield


def make_updates(
    state: TrainState,
    policy: CFM,
    items: Iterator[Item],
    compute_loss: ComputeLoss[Item],
    context: LoopContext,
    stop: GracefulStop,
    validate: Validate,
    make_samples: MakeSamples[Item] | None,
) -> Ending:
    """Make, validate, log and save the updates that the run lacks; return what ended it."""
    checkpoints, metrics_log = context.checkpoints, context.metrics_log
    oom_retry = OomRetry(metrics_log.write_line, can_retry=not context.optim.shard)
    if state.update == 0 and (start_metrics := validate(state)):
        metrics_log(start_metrics, 0)
    done = time.perf_counter()
    while state.update < context.total:
        if state.update % context.updates_per_rollout == 0:
            if any_rank(stop.requested, context.accelerator):
                return "stopped"
            if is_ended_by_alarm(context):
                return "alarm"
        started = time.perf_counter()
        set_seed(update_seed(context.optim.seed, state.update, context.accelerator.process_index))
        item = next(items, None)
        if item is None:
            break
        skips, compares = state.skips.total, is_comparison_due(state.update, checkpoints)
        metrics = train_update(
            state, policy, item, compute_loss, context.accelerator, context.optim, oom_retry, compares
        )
        metrics |= throughput_metrics(metrics.pop("seconds"), time.perf_counter() - started) | memory_metrics()
        try:
            metrics |= validate(state)
        finally:  # an update that is made has its row, whatever a judge does
            before, done = done, time.perf_counter()
            metrics_log(metrics | {"time/step": done - before}, state.update)
        is_between_rollouts = state.update % context.updates_per_rollout == 0
        is_saved = is_between_rollouts and checkpoints.save_if_due(state, state.skips.total > skips)
        if make_samples is not None and is_saved:
            metrics_log.log_samples(make_samples(state.model, item), state.update)
    return "complete"


def is_comparison_due(update: int, checkpoints: CheckpointDir) -> bool:
    """Check whether the update after this many ends with a comparison of all ranks: now and then, and before a save."""
    return update % COMPARED_EVERY == 0 or checkpoints.is_save_due(update + 1)


def is_ended_by_alarm(context: LoopContext) -> bool:
    """Check whether the alarm that ends the run is active; all ranks get the answer of the main one."""
    alarm = context.stop_alarm
    return alarm is not None and any_rank(context.metrics_log.is_active(alarm), context.accelerator)


def train_update(
    state: TrainState,
    policy: CFM,
    item: Item,
    compute_loss: ComputeLoss[Item],
    accelerator: Accelerator,
    optim: OptimConfig,
    oom_retry: OomRetry,
    compares: bool = True,
) -> dict[str, float]:
    """Make one update from an item; return the merged metrics of its slices, and `seconds` of speech.

    A GPU is waited for once, before the optimizer step, when the numbers of all slices are read. `compares` compares
    the weights of all ranks.

    If a loss or the gradient is not finite on any rank, no rank takes the optimizer step. Counter, schedule and average
    go on, so that a resumed run meets the same updates. In fp16 the loss is scaled: the scale falls after a gradient
    overflow and grows after many updates without one.
    """
    log = oom_retry.log
    with nullcontext() if optim.shard else AllRanks(accelerator).raise_on_all_ranks():
        slices = oom_retry.run(
            item, lambda chunks: accumulate_gradients(policy, chunks, compute_loss, accelerator), state.optimizer
        )
    average_gradients(state.model, accelerator)
    accelerator.unscale_gradients(state.optimizer)
    gradient_norm = to_full(accelerator.clip_grad_norm_(policy.parameters(), optim.max_grad_norm))
    numbers = read_numbers(slices, gradient_norm, accelerator)
    with nullcontext() if optim.shard else AllRanks(accelerator).raise_on_all_ranks():
        numbers.check(slices)
    loss, norm, is_finite = sum(numbers.losses, 0.0), numbers.norm, numbers.is_finite
    metrics = {"loss": loss} | merge_metrics(numbers.metrics)
    state.is_torn = True
    if is_finite:
        state.skips.count(False)
        state.optimizer.step()
    elif is_fp16_overflow(loss, accelerator):
        state.skips.total += 1
        log(f"update {state.update + 1} skipped: its gradient is too large for fp16; the scale is lowered")
    else:
        skip_update(state, non_finite_message(loss, norm, metrics, state.update), optim.max_skips, log)
    if accelerator.scaler is not None:
        accelerator.scaler.update()
    metrics |= {
        "seconds": sum((output.seconds for output in slices), 0.0),
        "grad_norm": norm,
        "lr": float(state.scheduler.get_last_lr()[0]),
    }
    metrics["health/nonfinite_skips"] = float(state.skips.total)
    metrics["health/bad_rows"] = float(len(state.next_position.bad_rows))
    metrics["health/oom_retries"] = float(oom_retry.retries)
    state.scheduler.step()
    state.optimizer.zero_grad()
    state.ema.update()
    if compares:
        metrics |= check_weights_in_sync(state.model, accelerator, state.update + 1)
    state.finish_update()
    return metrics


def accumulate_gradients(
    policy: CFM, item: Item, compute_loss: ComputeLoss[Item], accelerator: Accelerator
) -> list[LossOutput]:
    """Accumulate the gradients of an item's loss, slice by slice; return the slices, detached from their graphs."""
    slices = []
    for output in compute_loss(policy, item):
        accelerator.backward(output.loss)
        slices.append(replace(output, loss=output.loss.detach()))
    return slices


class SliceNumbers(NamedTuple):
    """Numbers of the slices of an update on the CPU."""

    losses: list[float]
    metrics: list[dict[str, float]]
    norm: float  # of the gradient of all ranks
    is_finite: bool  # on every rank

    def check(self, slices: list[LossOutput]) -> None:
        """Check the metrics of each slice as it asks for; raise its error."""
        for output, metrics in zip(slices, self.metrics, strict=True):
            if output.check is not None:
                output.check(metrics)


def read_numbers(slices: list[LossOutput], norm: Tensor, accelerator: Accelerator) -> SliceNumbers:
    """Read losses, metrics and the gradient norm of an update from their device in one copy."""
    measured = torch.stack([*(output.loss.detach().to(norm) for output in slices), norm])
    failed = (~measured.isfinite().all()).to(norm)
    if accelerator.num_processes > 1:
        failed = torch.as_tensor(accelerator.reduce(failed, reduction="sum"))  # pyright: ignore
    shared = dict(enumerate([*measured, failed]))
    first, *metrics = read_rows([shared, *(output.metrics for output in slices)])
    *losses, norm_value, num_failed = first.values()
    return SliceNumbers(losses, metrics, norm_value, num_failed == 0)


def read_rows(rows: Sequence[Mapping[Any, float | Tensor]]) -> list[dict[Any, float]]:
    """Return rows of scalars as numbers; those on a device are read in one copy."""
    waiting = [value for row in rows for value in row.values() if isinstance(value, Tensor)]
    numbers = iter(torch.stack([value.to(waiting[0]) for value in waiting]).tolist() if waiting else [])
    return [
        {name: next(numbers) if isinstance(value, Tensor) else value for name, value in row.items()} for row in rows
    ]


def is_finite_everywhere(loss: float, norm: float, accelerator: Accelerator) -> bool:
    """Check whether loss and gradient norm are finite on every rank."""
    return not any_rank(not math.isfinite(loss + norm), accelerator)


def is_fp16_overflow(loss: float, accelerator: Accelerator) -> bool:
    """Check whether an update failed by gradient overflow in fp16 and the loss scale can still be lowered."""
    scaler = accelerator.scaler
    return scaler is not None and scaler.get_scale() > 1 and is_finite_everywhere(loss, 0.0, accelerator)


def register_grad_scaler(state: TrainState, accelerator: Accelerator) -> None:
    """Add the fp16 gradient scaler to what checkpoints hold."""
    if accelerator.scaler is not None:
        state.stateful["scaler"] = accelerator.scaler


def skip_update(state: TrainState, message: str, max_skips: int, log: Callable[[str], None]) -> None:
    """Count and report a skipped update; raise FloatingPointError when too many in a row were skipped."""
    state.skips.count(True)
    in_a_row = state.skips.in_a_row
    if in_a_row > max_skips:
        raise FloatingPointError(message)
    log(f"update {state.update + 1} skipped, {in_a_row} in a row of at most optim.max_skips={max_skips}: {message}")


def non_finite_message(loss: float, norm: float, metrics: dict[str, float], update: int) -> str:
    """Describe what was not finite, after which update, and the other metrics measured then."""
    values = {"loss": loss, "gradient norm": norm}
    non_finite = next((f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)), None)
    measured = ", ".join(f"{name}={number:.4g}" for name, number in sorted(metrics.items()))
    problem = non_finite or "a loss or gradient of another process is not finite"
    return f"{problem} after update {update} ({measured}); try a lower optim.learning_rate"


def average_gradients(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Average the gradients over all ranks, once per update, however many slices each rank had.

    Sharded parameters (DTensor) are averaged already.
    """
    if accelerator.num_processes == 1:
        return
    for bucket in gradient_buckets(model):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        average = torch.as_tensor(accelerator.reduce(flat, reduction="mean"))  # pyright: ignore
        for gradient, part in zip(bucket, average.split([part.numel() for part in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def gradient_buckets(model: torch.nn.Module) -> list[list[Tensor]]:
    """Divide the gradients that are not sharded into buckets of one type and up to BUCKET_BYTES, or of one gradient."""
    buckets: list[list[Tensor]] = []
    for gradient in (value.grad for value in model.parameters() if not is_dtensor(value)):
        if gradient is None:
            continue
        last = buckets[-1] if buckets and buckets[-1][0].dtype == gradient.dtype else None
        if last is not None and sum(part.nbytes for part in last) + gradient.nbytes <= BUCKET_BYTES:
            last.append(gradient)
        else:
            buckets.append([gradient])
    return buckets


def throughput_metrics(seconds: float, duration_s: float) -> dict[str, float]:
    """Compute the seconds of an update and its throughput; updates that drew no speech report the time only."""
    throughput = {"throughput/audio_seconds": seconds / duration_s} if seconds else {}
    return {"time/update": duration_s, **throughput}


def memory_metrics() -> dict[str, float]:
    """Return peak memory in MiB: allocated and reserved on the GPU, and the resident memory of this process.

    Resident memory is not reported on Windows.
    """
    metrics: dict[str, float] = {}
    if torch.cuda.is_available():
        metrics["mem/peak_allocated_mb"] = torch.cuda.max_memory_allocated() / 2**20
        metrics["mem/reserved_mb"] = torch.cuda.max_memory_reserved() / 2**20
    if sys.platform != "win32":
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        metrics["mem/peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return metrics


def update_seed(seed: int, update: int, process: int = 0) -> int:
    """Derive the seed of all random numbers that one rank draws in one update."""
    return int(np.random.SeedSequence([seed, update]).generate_state(process + 1)[process])


def merge_metrics(outputs: list[dict[str, float]]) -> dict[str, float]:
    """Merge the metrics of slices: the mean of each, or the minimum or maximum where its name says so."""
    names = dict.fromkeys(name for metrics in outputs for name in metrics)
    values = {name: [metrics[name] for metrics in outputs if name in metrics] for name in names}
    return {name: reduction(name)(numbers) for name, numbers in values.items()}


def reduction(name: str) -> Callable[[list[float]], float]:
    """Choose how a metric is merged from the words of its name: `max`, `min`, or the mean."""
    name_parts = set(re.split(r"[/_]", name))
    return max if "max" in name_parts else min if "min" in name_parts else mean


def mean(values: list[float]) -> float:
    """Compute the mean; NaN for inf and -inf together, where statistics.fmean raises."""
    return sum(values) / len(values)
