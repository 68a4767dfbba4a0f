"""State of a training run: what a checkpoint holds, and how a run resumes from it.

A checkpoint needs no random state: all random numbers of update k come from a seed made of optim.seed and k, and the
order of the data depends on optim.seed and the epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from ema_pytorch import EMA
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from f5_tts.config.schema import LoraConfig
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import (
    LORA,
    Checkpoint,
    ModelSpec,
    check_spec,
    load_weights,
    match_weights,
)
from f5_tts.model.fsdp import shard_optimizer_state
from f5_tts.model.lora import adapter_weights, check_same_lora, load_with_adapters, lora_settings, merged_weights
from f5_tts.train.run_settings import DATA_SET, compare_settings

OPTIMIZER = "optimizer_class"  # checkpoint key: class of the optimizer whose states it holds
DEFAULT_OPTIMIZER = "torch.AdamW"  # class in checkpoints without that key


@runtime_checkable
class Stateful(Protocol):
    """Object with a state of plain values and tensors that a checkpoint holds."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Restore the state."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DataPosition:
    """How far a run has read its data, and the rows so far that cannot be used."""

    batches: int = 0  # of all ranks together, those that were passed over included
    bad_rows: frozenset[int] = frozenset()  # indices in the data set


@dataclass(kw_only=True, slots=True)
class Skips:
    """Count of updates that were skipped because a loss or the gradient was not finite."""

    total: int = 0
    in_a_row: int = 0

    def count(self, skipped: bool) -> None:
        """Count one update; one that is not skipped resets the number in a row."""
        self.total += skipped
        self.in_a_row = self.in_a_row + 1 if skipped else 0


@dataclass(kw_only=True, slots=True)
class TrainState:
    """State of a run that a checkpoint holds."""

    model: CFM
    spec: ModelSpec
    ema: EMA
    optimizer: Optimizer
    scheduler: LRScheduler
    objective: str  # model.objective, which identifies the stage
    update: int = 0
    processes: int = 1  # number of ranks
    skips: Skips = field(default_factory=Skips)
    position: DataPosition = field(default_factory=DataPosition)  # after the batches of all updates made
    next_position: DataPosition = field(default_factory=DataPosition)  # after those of the update being made
    stateful: dict[str, Stateful] = field(default_factory=dict)  # further state that a stage saves, by name
    batches_per_update: float = 1.0  # for older checkpoints, which do not say how many batches were read
    lora: LoraConfig | None = None  # settings of the adapters; the model has some where the rank is above 0
    # file and sha256 of stage 2's initial weights, in the checkpoint folder
    initial_weights: dict[str, str] | None = None
    numbered: list[int] = field(default_factory=list)  # updates whose model_<update>.pt this run has written and kept
    settings: dict[str, Any] = field(default_factory=dict)  # what changes the result, see run_settings.py
    allow_changed: bool = False  # ckpts.allow_changed

    def payload(self) -> dict[str, object]:
        """Return the payload of a checkpoint."""
        return {
            "model_state_dict": merged_weights(self.model),
            "ema_model_state_dict": merged_weights(self.ema),
            "optimizer_state_dict": self.optimizer.state_dict(),
            OPTIMIZER: class_name(self.optimizer),
            "scheduler_state_dict": self.scheduler.state_dict(),
            "objective": self.objective,
            "update": self.update,
            "processes": self.processes,
            "skips": asdict(self.skips),
            "recommended": self.preferred_weights,
            **({} if self.initial_weights is None else {"origin": self.initial_weights}),
            "batches": self.position.batches,
            "numbered": list(self.numbered),
            "settings": self.settings,
            **({"bad_rows": sorted(self.position.bad_rows)} if self.position.bad_rows else {}),
            **self.adapters(),
            **{f"{name}_state_dict": component.state_dict() for name, component in self.stateful.items()},
            **asdict(self.spec),
        }

    def adapters(self) -> dict[str, object]:
        """Return what a run with LoRA resumes from: its settings and the separate adapters.

        The model weights in a checkpoint are merged with the adapters, so these are stored beside them.
        """
        settings = lora_settings(self.lora)
        raw, average = adapter_weights(self.model), adapter_weights(self.ema)
        return {LORA: {"settings": settings, "raw": raw, "ema": average}} if raw else {}

    @property
    def preferred_weights(self) -> str:
        """Return which weights to use for inference: `ema` once the average spans less than a tenth of the run.

        Before that the average lags behind the `raw` weights.
        """
        window = self.ema.update_every / (1 - self.ema.get_current_decay())
        return "ema" if window < 0.1 * self.update else "raw"

    def describe_run(self) -> str:
        """Describe what the run trains: its stage, its algorithm in stage 2, and its data set."""
        parts = [self.objective, *(self.settings.get(key) for key in ("rl.algorithm", DATA_SET))]
        return ", ".join(part for part in parts if part)

    def resume(self, checkpoint: Checkpoint, log: Callable[[str], None] = print) -> None:
        """Resume a run of the same stage; from another stage, or a file without a run, load the weights only."""
        check_spec(checkpoint, self.spec, log)
        payload = checkpoint.payload
        if payload.get("objective") == self.objective and "optimizer_state_dict" in payload:
            compare_settings(checkpoint, self.settings, self.allow_changed, log)
            adapters = payload.get(LORA, {})
            check_same_lora(checkpoint.path, adapters.get("settings", lora_settings(None)), lora_settings(self.lora))
            load_with_adapters(self.model, match_weights(self.model, checkpoint, log), adapters.get("raw", {}))
            load_with_adapters(self.ema, payload["ema_model_state_dict"], adapters.get("ema", {}))
            current_rates = self.scheduler.base_lrs
            self.scheduler.load_state_dict(payload["scheduler_state_dict"])
            self.resume_optimizer(checkpoint, log)
            self.restore_learning_rates(current_rates, log)
            self.update = payload["update"]
            self.skips = Skips(**payload.get("skips", {}))
            self.position = self.next_position = DataPosition(
                batches=payload.get("batches", int(self.update * self.batches_per_update)),
                bad_rows=frozenset(payload.get("bad_rows", [])),
            )
            self.numbered = list(payload.get("numbered", []))
            for name, component in self.stateful.items():
                if f"{name}_state_dict" in payload:
                    component.load_state_dict(payload[f"{name}_state_dict"])
            log(f"resuming {checkpoint.path} at update {self.update}")
            self.compare_processes(payload.get("processes", self.processes), log)
        else:
            load_weights(self.model, checkpoint, log)
            self.ema.copy_params_from_model_to_ema()
            came_from = payload.get("objective", "a run of another program")
            log(
                f"starting {self.objective} from the {checkpoint.weights_kind} weights of {checkpoint.path} (made by "
                f"{came_from}): optimizer, schedule and counter start again"
            )

    def compare_processes(self, saved: int, log: Callable[[str], None]) -> None:
        """Report what changes when a run resumes with another number of ranks."""
        if saved != self.processes:
            log(
                f"the number of processes changes from {saved} to {self.processes}: weights, optimizer, counter and "
                "place in the data continue; each update has another number of batches, so that noise and learning "
                f"rates from here on are those of a run that had {self.processes} from the start"
            )

    def resume_optimizer(self, checkpoint: Checkpoint, log: Callable[[str], None]) -> None:
        """Load the optimizer's states if the same optimizer class made them.

        Otherwise the optimizer starts without states, at the schedule's current rate, and this is reported.
        """
        saved, current = checkpoint.payload.get(OPTIMIZER, DEFAULT_OPTIMIZER), class_name(self.optimizer)
        if saved == current:
            self.optimizer.load_state_dict(
                shard_optimizer_state(checkpoint.payload["optimizer_state_dict"], self.optimizer)
            )
            return
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        log(
            f"{checkpoint.path} has the states of {saved}, this run uses {current} (optim.bnb_optimizer): the "
            "optimizer starts again; weights, EMA, schedule and counter continue"
        )

    def restore_learning_rates(self, current: list[Any], log: Callable[[str], None]) -> None:
        """Restore the learning rate of the config where the checkpoint has another one.

        The position in the schedule is kept, and the change is reported.
        """
        saved = self.scheduler.base_lrs
        if current == saved:
            return
        assert isinstance(self.scheduler, LambdaLR)
        step = self.scheduler.last_epoch
        rates = [rate * factor(step) for rate, factor in zip(current, self.scheduler.lr_lambdas, strict=True)]
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), "base_lrs": current, "_last_lr": rates})
        for group, highest, rate in zip(self.optimizer.param_groups, current, rates, strict=True):
            group["initial_lr"], group["lr"] = highest, rate
        log(f"optim.learning_rate is {current[0]:g} from here on; before it was {saved[0]:g}")


def class_name(optimizer: Optimizer) -> str:
    """Return library and class of an optimizer, such as torch.AdamW."""
    kind = type(optimizer)
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
