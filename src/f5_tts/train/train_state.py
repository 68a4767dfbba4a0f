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
from f5_tts.model.checkpoint import Checkpoint, ModelSpec, check_spec, load_weights, match_weights
from f5_tts.model.compare import first_bad_value, first_mismatch
from f5_tts.model.fsdp import shard_optimizer_state
from f5_tts.model.grow import grow_to
from f5_tts.model.lora import adapter_weights, check_same_lora, load_with_adapters, lora_settings, merged_weights
from f5_tts.model.payload import EMA as AVERAGE
from f5_tts.model.payload import LORA, OPTIMIZER, SCHEDULE, training_problems
from f5_tts.train.optimizer import explain_misfit
from f5_tts.train.run_settings import DATA_SET, compare_settings, keep_threads
from f5_tts.train.upstream_run import as_own_run

OPTIMIZER_CLASS = "optimizer_class"  # checkpoint key: class of the optimizer whose states it holds
DEFAULT_OPTIMIZER = "torch.AdamW"  # class in checkpoints without that key
ADVICE = (
    "move it away to resume from an older one, or name it in ckpts.init_from with another ckpts.save_dir to start from "
    "its weights alone"
)


@runtime_checkable
class Stateful(Protocol):
    """Object with a state of plain values and tensors that a checkpoint holds."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Restore the state."""
        ...


@runtime_checkable
class ChangedByRollouts(Protocol):
    """Object that a rollout changes before its update is made; its `state_dict` is that after the last whole update."""

    def commit(self) -> None:
        """Take over what the rollout changed, because its update is made."""
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
    is_torn: bool = False  # whether only a part of the state has made the current update
    stateful: dict[str, Stateful] = field(default_factory=dict)  # further state that a stage saves, by name
    batches_per_update: float = 1.0  # for older checkpoints, which do not say how many batches were read
    lora: LoraConfig | None = None  # settings of the adapters; the model has some where the rank is above 0
    # file and sha256 of stage 2's initial weights, in the checkpoint folder
    initial_weights: dict[str, str] | None = None
    numbered: list[int] = field(default_factory=list)  # updates whose model_<update>.pt this run has written and kept
    validation: dict[str, Any] = field(default_factory=dict)  # its interval and items, see auto_validation.py
    settings: dict[str, Any] = field(default_factory=dict)  # what changes the result, see run_settings.py
    allow_changed: bool = False  # ckpts.allow_changed

    def finish_update(self) -> None:
        """Count an update that the whole state has made, and its batches."""
        self.update, self.position = self.update + 1, self.next_position
        for component in self.stateful.values():
            if isinstance(component, ChangedByRollouts):
                component.commit()
        self.is_torn = False

    def payload(self) -> dict[str, object]:
        """Return the payload of a checkpoint."""
        return {
            "model_state_dict": merged_weights(self.model),
            "ema_model_state_dict": merged_weights(self.ema),
            "optimizer_state_dict": self.optimizer.state_dict(),
            OPTIMIZER_CLASS: class_name(self.optimizer),
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
            **({"validation": self.validation} if self.validation else {}),
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
        """Resume a run of the same stage; otherwise start from the weights of a checkpoint alone, and say why.

        Otherwise: the file is of another stage or without a training state, its vocabulary grows, or the states of its
        optimizer and average do not fit what this run trains.

        Raises:
            ValueError: the weights or LoRA settings are others, a state holds NaN or infinity, or it fits in part only.
        """
        checkpoint = as_own_run(grow_to(checkpoint, self.spec.vocabulary, log), self.model)
        check_spec(checkpoint, self.spec, log)
        payload = checkpoint.payload
        came_from = payload.get("objective", "a run of another program")
        if came_from != self.objective or OPTIMIZER not in payload:
            self.start(checkpoint, f"made by {came_from}", log)
            return
        if problems := training_problems(payload):
            raise ValueError(f"{checkpoint.path} cannot be resumed: {'; '.join(problems)}; {ADVICE}")
        check_same_lora(checkpoint.path, self.saved_adapters(payload)["settings"], lora_settings(self.lora))
        if misfit := self.misfit(payload):
            if "origin" in payload:  # the file is of the run in this folder, which has its initial weights
                raise ValueError(f"{checkpoint.path} cannot be resumed: {misfit}; {ADVICE}")
            self.start(checkpoint, f"whose training state does not fit this run: {misfit}", log)
            return
        keep_threads(checkpoint, self.settings, log)
        compare_settings(checkpoint, self.settings, self.allow_changed, log)
        self.check_values(checkpoint)
        self.restore(checkpoint, log)

    def start(self, checkpoint: Checkpoint, source: str, log: Callable[[str], None]) -> None:
        """Load the weights of a checkpoint; optimizer, schedule and counter stay those of a new run."""
        load_weights(self.model, checkpoint, log)
        self.ema.copy_params_from_model_to_ema()
        log(
            f"starting {self.objective} from the {checkpoint.weights_kind} weights of {checkpoint.path} ({source}): "
            "optimizer, schedule and counter start again"
        )

    def restore(self, checkpoint: Checkpoint, log: Callable[[str], None]) -> None:
        """Restore the whole state of a run from a checkpoint that was checked before."""
        payload = checkpoint.payload
        adapters = self.saved_adapters(payload)
        load_with_adapters(self.model, match_weights(self.model, checkpoint, log), adapters["raw"])
        load_with_adapters(self.ema, payload[AVERAGE], adapters["ema"])
        self.update = payload["update"]
        self.restore_optimizer(checkpoint, log)
        self.restore_schedule(payload[SCHEDULE]["base_lrs"], log)
        self.skips = Skips(**payload.get("skips", {}))
        self.position = self.next_position = DataPosition(
            batches=payload.get("batches", int(self.update * self.batches_per_update)),
            bad_rows=frozenset(payload.get("bad_rows", [])),
        )
        self.numbered = list(payload.get("numbered", []))
        for name, component in self.stateful.items():
            if f"{name}_state_dict" in payload:
                component.load_state_dict(payload[f"{name}_state_dict"])
            else:
                log(f"{checkpoint.path} holds no state of {name}: it starts again")
        log(f"resuming {checkpoint.path} at update {self.update}")
        self.compare_processes(payload.get("processes", self.processes), log)

    def saved_adapters(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of LoRA and the adapters of a checkpoint, or those of a run without any."""
        return payload.get(LORA, {"settings": lora_settings(None), "raw": {}, "ema": {}})

    def misfit(self, payload: dict[str, Any]) -> str | None:
        """Describe where the average, the adapters or the optimizer of a checkpoint do not fit this run, or None."""
        adapters = self.saved_adapters(payload)
        found = {"average": payload[AVERAGE], "raw adapters": adapters["raw"], "averaged adapters": adapters["ema"]}
        expected = (merged_weights(self.ema), adapter_weights(self.model), adapter_weights(self.ema))
        misfits = (first_mismatch(found[name], own, f"its {name}") for name, own in zip(found, expected, strict=True))
        return next(filter(None, misfits), None) or (
            explain_misfit(payload[OPTIMIZER], self.optimizer, self.model) if self.has_same_optimizer(payload) else None
        )

    def check_values(self, checkpoint: Checkpoint) -> None:
        """Check that all numbers of the states are finite, and that those of the further components fit."""
        payload, problems = checkpoint.payload, list[str | None]()
        states = {key: payload[key] for key in (AVERAGE, LORA) if key in payload}
        if self.has_same_optimizer(payload):
            states[OPTIMIZER] = payload[OPTIMIZER]["state"]
        for key, component in ((f"{name}_state_dict", component) for name, component in self.stateful.items()):
            if key in payload:
                states[key] = saved = payload[key]
                names = saved if isinstance(saved, dict) else ()
                expected = component.state_dict() or dict.fromkeys(names, [0.0] * 3)  # empty: moments, none so far
                if isinstance(saved, dict):
                    saved = getattr(component, "added_keys", {}) | saved
                problems.append(first_mismatch(saved, expected, key))
        problems += [first_bad_value(state, key) for key, state in states.items()]
        if found := list(dict.fromkeys(filter(None, problems))):
            raise ValueError(f"{checkpoint.path} cannot be resumed: {'; '.join(found[:3])}; {ADVICE}")

    def has_same_optimizer(self, payload: dict[str, Any]) -> bool:
        """Check whether the optimizer of a checkpoint is of the same class as this run's."""
        return payload.get(OPTIMIZER_CLASS, DEFAULT_OPTIMIZER) == class_name(self.optimizer)

    def compare_processes(self, saved: int, log: Callable[[str], None]) -> None:
        """Report what changes when a run resumes with another number of ranks."""
        if saved != self.processes:
            log(
                f"the number of processes changes from {saved} to {self.processes}: weights, optimizer, counter and "
                "place in the data continue; each update has another number of batches, so that noise and learning "
                f"rates from here on are those of a run that had {self.processes} from the start"
            )

    def restore_optimizer(self, checkpoint: Checkpoint, log: Callable[[str], None]) -> None:
        """Load the optimizer's states if the same optimizer class made them; otherwise it starts without, and says so.

        Its settings are those of this run.
        """
        if self.has_same_optimizer(checkpoint.payload):
            state = {**self.optimizer.state_dict(), "state": checkpoint.payload[OPTIMIZER]["state"]}
            self.optimizer.load_state_dict(shard_optimizer_state(state, self.optimizer))
            num, total = len(state["state"]), sum(len(group["params"]) for group in self.optimizer.param_groups)
            if num < total and self.update:
                log(f"{checkpoint.path} has optimizer states of {num} of {total} trained tensors: the others have none")
            return
        saved = checkpoint.payload.get(OPTIMIZER_CLASS, DEFAULT_OPTIMIZER)
        log(
            f"{checkpoint.path} has the states of {saved}, this run uses {class_name(self.optimizer)} "
            "(optim.bnb_optimizer): the optimizer starts again; weights, EMA, schedule and counter continue"
        )

    def restore_schedule(self, saved_rates: list[float], log: Callable[[str], None]) -> None:
        """Go on at the place in the schedule that the update tells, with this run's learning rate.

        A rate that differs from the checkpoint's is reported.
        """
        assert isinstance(self.scheduler, LambdaLR)
        rates = [
            rate * factor(self.update)
            for rate, factor in zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
        ]
        place = {"last_epoch": self.update, "_step_count": self.update + 1, "_last_lr": rates}
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **place})
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if saved_rates != self.scheduler.base_lrs:
            current = self.scheduler.base_lrs[0]
            log(f"optim.learning_rate is {current:g} from here on; before it was {saved_rates[0]:g}")


def class_name(optimizer: Optimizer) -> str:
    """Return library and class of an optimizer, such as torch.AdamW."""
    kind = type(optimizer)
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def first_bad_state(payload: dict[str, Any]) -> str | None:
    """Describe the first number of the states of a checkpoint that a resume would refuse, or None."""
    states = {key: state for key, state in payload.items() if key == LORA or key.endswith("_state_dict")}
    if OPTIMIZER in states:
        states[OPTIMIZER] = states[OPTIMIZER]["state"]
    return next(filter(None, (first_bad_value(state, key) for key, state in states.items())), None)
