"""The whole of a run: save, find, resume, prune.

Random state needs no place in a checkpoint: every draw of update k comes from a seed made of optim.seed and k, and
the order of the data from optim.seed and the epoch.
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

OPTIMIZER = "optimizer_class"  # in a checkpoint: whose states it holds
DEFAULT_OPTIMIZER = "torch.AdamW"  # of checkpoints that do not say


@runtime_checkable
class Stateful(Protocol):
    """Something that remembers, and whose memory is plain values and tensors."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


@dataclass(kw_only=True, slots=True)
class Skips:
    """Updates left out because a loss or the gradient was not finite."""

    total: int = 0
    in_a_row: int = 0

    def count(self, skipped: bool) -> None:
        self.total += skipped
        self.in_a_row = self.in_a_row + 1 if skipped else 0


@dataclass(kw_only=True, slots=True)
class TrainState:
    """What a checkpoint holds."""

    model: CFM
    spec: ModelSpec
    ema: EMA
    optimizer: Optimizer
    scheduler: LRScheduler
    objective: str  # model.objective: which stage this is
    update: int = 0
    processes: int = 1  # that train it
    skips: Skips = field(default_factory=Skips)
    bad_rows: set[int] = field(default_factory=set)  # of the data set: those met so far that cannot be read
    stateful: dict[str, Stateful] = field(default_factory=dict)  # what else a stage has to remember, by name
    lora: LoraConfig | None = None  # what adapters the model has, where its rank is above 0
    # file and sha256 of the weights that RL started from, beside the checkpoints
    initial_weights: dict[str, str] | None = None

    def payload(self) -> dict[str, object]:
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
            **({"bad_rows": sorted(self.bad_rows)} if self.bad_rows else {}),
            **self.adapters(),
            **{f"{name}_state_dict": component.state_dict() for name, component in self.stateful.items()},
            **asdict(self.spec),
        }

    def adapters(self) -> dict[str, object]:
        """What a run with LoRA goes on from, as weights in a file are merged: its settings, and the adapters apart."""
        settings = lora_settings(self.lora)
        raw, average = adapter_weights(self.model), adapter_weights(self.ema)
        return {LORA: {"settings": settings, "raw": raw, "ema": average}} if raw else {}

    @property
    def preferred_weights(self) -> str:
        """The weights that should speak: `ema` once the average looks back over less than a tenth of the run.

        Before that it lags behind the `raw` ones.
        """
        window = self.ema.update_every / (1 - self.ema.get_current_decay())
        return "ema" if window < 0.1 * self.update else "raw"

    def resume(self, checkpoint: Checkpoint, log: Callable[[str], None] = print) -> None:
        """Go on where the same stage stopped; from another stage or a file without a run take the weights alone."""
        check_spec(checkpoint, self.spec, log)
        payload = checkpoint.payload
        if payload.get("objective") == self.objective and "optimizer_state_dict" in payload:
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
            self.bad_rows = set(payload.get("bad_rows", []))
            for name, component in self.stateful.items():
                if f"{name}_state_dict" in payload:
                    component.load_state_dict(payload[f"{name}_state_dict"])
            log(f"resuming {checkpoint.path} at update {self.update}")
            self.compare_processes(payload.get("processes", self.processes), log)
        else:
            load_weights(self.model, checkpoint, log)
            self.ema.copy_params_from_model_to_ema()
            came_from = payload.get("objective", "no run of ours")
            log(
                f"starting {self.objective} from the {checkpoint.weights_kind} weights of {checkpoint.path} (made by "
                f"{came_from}): optimizer, schedule and counter start anew"
            )

    def compare_processes(self, saved: int, log: Callable[[str], None]) -> None:
        """Say what another number of processes changes, where it does."""
        if saved != self.processes:
            log(
                f"until here {saved} processes trained, now {self.processes}: weights, optimizer and counter go on; "
                "each update has another number of batches, so that place in the data, noise, and learning rates from "
                f"here on are those of a run that had {self.processes} from the start"
            )

    def resume_optimizer(self, checkpoint: Checkpoint, log: Callable[[str], None]) -> None:
        """Its states, where the same optimizer made them; another one starts without, at the schedule's rate."""
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
            "optimizer starts anew; weights, average, schedule and counter go on"
        )

    def restore_learning_rates(self, current: list[Any], log: Callable[[str], None]) -> None:
        """The run's own highest learning rates, where the checkpoint's are others; the schedule's place stays."""
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
    """Library and class of an optimizer."""
    kind = type(optimizer)
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
