"""The whole of a run: save, find, resume, prune.

Random state needs no place in a checkpoint: every draw of update k comes from a seed made of optim.seed and k, and
the order of the data from optim.seed and the epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ema_pytorch import EMA
from filelock import FileLock, Timeout
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import (
    LORA,
    PARTS,
    Checkpoint,
    ModelCard,
    check_card,
    find_checkpoint,
    load_weights,
    make_folder,
    matched_weights,
    numbered_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from f5_tts.model.hub import find_file
from f5_tts.model.lora import adapter_weights, check_same_lora, load_adapted, lora_settings, merged_weights
from f5_tts.model.shards import divided_states, whole
from f5_tts.sections import CkptsConfig, LoraConfig

OPTIMIZER = "optimizer_class"  # in a checkpoint: whose states it holds
BEFORE = "torch.AdamW"  # of checkpoints that do not say


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
class Trainable:
    """What a checkpoint holds."""

    model: CFM
    card: ModelCard
    ema: EMA
    optimizer: Optimizer
    scheduler: LRScheduler
    objective: str  # model.objective: which stage this is
    update: int = 0
    processes: int = 1  # that train it
    skips: Skips = field(default_factory=Skips)
    bad_rows: set[int] = field(default_factory=set)  # of the data set: those met so far that cannot be read
    extras: dict[str, Stateful] = field(default_factory=dict)  # what else a stage has to remember, by name
    lora: LoraConfig | None = None  # what adapters the model has, where its rank is above 0
    origin: dict[str, str] | None = None  # file and sha256 of the weights that RL started from, beside the checkpoints

    def state(self) -> dict[str, object]:
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
            "recommended": self.recommended,
            **({} if self.origin is None else {"origin": self.origin}),
            **({"bad_rows": sorted(self.bad_rows)} if self.bad_rows else {}),
            **self.adapters(),
            **{f"{name}_state_dict": part.state_dict() for name, part in self.extras.items()},
            **asdict(self.card),
        }

    def adapters(self) -> dict[str, object]:
        """What a run with LoRA goes on from, as weights in a file are merged: its settings, and the adapters apart."""
        settings = lora_settings(self.lora)
        raw, average = adapter_weights(self.model), adapter_weights(self.ema)
        return {LORA: {"settings": settings, "raw": raw, "ema": average}} if raw else {}

    @property
    def recommended(self) -> str:
        """The weights that should speak: `ema` once the average looks back over less than a tenth of the run.

        Before that it lags behind the `raw` ones.
        """
        looks_back = self.ema.update_every / (1 - self.ema.get_current_decay())
        return "ema" if looks_back < 0.1 * self.update else "raw"

    def resume(self, checkpoint: Checkpoint, say: Callable[[str], None] = print) -> None:
        """Go on where the same stage stopped; from another stage or a file without a run take the weights alone."""
        check_card(checkpoint, self.card, say)
        run = checkpoint.run
        if run.get("objective") == self.objective and "optimizer_state_dict" in run:
            adapters = run.get(LORA, {})
            check_same_lora(checkpoint.path, adapters.get("settings", lora_settings(None)), lora_settings(self.lora))
            load_adapted(self.model, matched_weights(self.model, checkpoint, say), adapters.get("raw", {}))
            load_adapted(self.ema, run["ema_model_state_dict"], adapters.get("ema", {}))
            own = self.scheduler.base_lrs
            self.scheduler.load_state_dict(run["scheduler_state_dict"])
            self.resume_optimizer(checkpoint, say)
            self.keep_rates(own, say)
            self.update = run["update"]
            self.skips = Skips(**run.get("skips", {}))
            self.bad_rows = set(run.get("bad_rows", []))
            for name, part in self.extras.items():
                if f"{name}_state_dict" in run:
                    part.load_state_dict(run[f"{name}_state_dict"])
            say(f"resuming {checkpoint.path} at update {self.update}")
            self.compare_processes(run.get("processes", self.processes), say)
        else:
            load_weights(self.model, checkpoint, say)
            self.ema.copy_params_from_model_to_ema()
            came_from = run.get("objective", "no run of ours")
            say(
                f"starting {self.objective} from the {checkpoint.which} weights of {checkpoint.path} (made by "
                f"{came_from}): optimizer, schedule and counter start anew"
            )

    def compare_processes(self, before: int, say: Callable[[str], None]) -> None:
        """Say what another number of processes changes, where it does."""
        if before != self.processes:
            say(
                f"until here {before} processes trained, now {self.processes}: weights, optimizer and counter go on; "
                "each update has another number of batches, so that place in the data, noise, and learning rates from "
                f"here on are those of a run that had {self.processes} from the start"
            )

    def resume_optimizer(self, checkpoint: Checkpoint, say: Callable[[str], None]) -> None:
        """Its states, where the same optimizer made them; another one starts without, at the schedule's rate."""
        theirs, own = checkpoint.run.get(OPTIMIZER, BEFORE), class_name(self.optimizer)
        if theirs == own:
            self.optimizer.load_state_dict(divided_states(checkpoint.run["optimizer_state_dict"], self.optimizer))
            return
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        say(
            f"{checkpoint.path} has the states of {theirs}, this run uses {own} (optim.bnb_optimizer): the optimizer "
            "starts anew; weights, average, schedule and counter go on"
        )

    def keep_rates(self, own: list[Any], say: Callable[[str], None]) -> None:
        """The run's own highest learning rates, where the checkpoint's are others; the schedule's place stays."""
        theirs = self.scheduler.base_lrs
        if own == theirs:
            return
        assert isinstance(self.scheduler, LambdaLR)
        place = self.scheduler.last_epoch
        rates = [rate * factor(place) for rate, factor in zip(own, self.scheduler.lr_lambdas, strict=True)]
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), "base_lrs": own, "_last_lr": rates})
        for group, highest, rate in zip(self.optimizer.param_groups, own, rates, strict=True):
            group["initial_lr"], group["lr"] = highest, rate
        say(f"optim.learning_rate is {own[0]:g} from here on; before it was {theirs[0]:g}")


def class_name(optimizer: Optimizer) -> str:
    """Library and class of an optimizer."""
    kind = type(optimizer)
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


class CheckpointDir:
    """The folder of a run's checkpoints; of several processes the main one writes, and all read."""

    def __init__(self, settings: CkptsConfig, is_main: bool = True, in_shards: bool = False) -> None:
        self.settings, self.is_main, self.in_shards = settings, is_main, in_shards
        self.path = Path(settings.save_dir)
        self.lock = FileLock(self.path / ".lock", timeout=0, is_singleton=True)

    def prepare(self) -> None:
        """Make the folder, keep other runs out of it, and remove what a killed one left half written.

        Raises OSError where it cannot be written, ValueError where another run writes.
        """
        if self.is_main:
            make_folder(self.path, "ckpts.save_dir")
            self.keep_others_out()
            for part in self.path.glob(PARTS):
                part.unlink()

    def keep_others_out(self) -> None:
        """Until `let_others_in`, or the end of this process, however it ends."""
        try:
            self.lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"another run is writing to ckpts.save_dir={self.path}: let it end, or choose another folder (several "
                "processes of one run are started by torchrun)"
            ) from error
        except NotImplementedError:  # a file system without locks
            pass

    def let_others_in(self) -> None:
        self.lock.release()

    def write(self, name: str, payload: Callable[[], dict[str, object]]) -> None:
        """Of a model in shards all processes bring their part."""
        state = whole(payload()) if self.is_main or self.in_shards else {}
        if self.is_main:
            with written_to(self.path):
                write_checkpoint(self.path / name, state)

    def newest(self, *, pretrained: bool) -> Checkpoint | None:
        """What a run starts or goes on from: the folder's own, else ckpts.init_from; None without either.

        Of `pretrained_*` files, those that they recommend (the average, where they say nothing), and of ckpts.init_from
        the weights alone.
        """
        path, given = find_checkpoint(self.path, pretrained=pretrained), self.settings.init_from
        if path is None:
            return None if given is None else read_checkpoint(find_file(given, "ckpts.init_from")).alone()
        if given is not None and self.is_main:
            print(f"ckpts.init_from={given} is for a new run and not read: {path} is there")
        checkpoint = self.read(path)
        return checkpoint.using().alone() if path.name.startswith("pretrained_") else checkpoint

    def read(self, path: Path) -> Checkpoint:
        """The checkpoint in a file; of a damaged one ValueError says how the run goes on without it."""
        try:
            return read_checkpoint(path)
        except ValueError as error:
            raise ValueError(f"{error}; {without(path)}") from error

    def start(self) -> Checkpoint:
        """The checkpoint that stage 2 starts or goes on from; it takes no `pretrained_*` file of the folder.

        Raises FileNotFoundError without one.
        """
        checkpoint = self.newest(pretrained=False)
        if checkpoint is None:
            raise FileNotFoundError(
                f"no model_last.pt or model_<update>.pt in ckpts.save_dir={self.path}: copy the model_last.pt of "
                "stage 1 there, or name a checkpoint in ckpts.init_from"
            )
        return checkpoint

    def origin(self, checkpoint: Checkpoint) -> Checkpoint:
        """The weights that stage 2 started from: `checkpoint` itself at the start, on a resume those kept beside it.

        Raises FileNotFoundError or ValueError when they are gone or no longer the same.
        """
        kept = checkpoint.run.get("origin")
        if kept is None:
            return checkpoint
        path = self.path / kept["file"]
        if not path.is_file():
            raise FileNotFoundError(
                f"{checkpoint.path} goes on from {path}, the policy as it was when stage 2 started, and that is gone: "
                "put it back, or start anew in another ckpts.save_dir"
            )
        if sha256_of(path) != kept["sha256"]:
            raise ValueError(f"{path} is not the file that {checkpoint.path} started from (sha256 {kept['sha256']})")
        return read_checkpoint(path)

    def keep_origin(self, trainable: Trainable) -> None:
        """At the start of stage 2: write down what it starts from, once."""
        name = "reference.pt"
        if trainable.update == 0:
            self.write(name, lambda: {"model_state_dict": merged_weights(trainable.model), **asdict(trainable.card)})
        if self.is_main:
            trainable.origin = {"file": name, "sha256": sha256_of(self.path / name)}

    def is_kept(self, update: int) -> bool:
        """Whether `model_<update>.pt` is written after this update."""
        return update % self.settings.save_per_updates == 0

    def save_if_due(self, trainable: Trainable) -> None:
        if self.is_kept(trainable.update):
            self.write(f"model_{trainable.update}.pt", trainable.state)
            self.prune()
        if trainable.update % self.settings.last_per_updates == 0:
            self.save_last(trainable)

    def save_last(self, trainable: Trainable) -> None:
        self.write("model_last.pt", trainable.state)

    def save_best(self, trainable: Trainable) -> None:
        """A copy to speak from, by the raw weights; no run seeks it, and none prunes it."""
        self.write("model_best.pt", lambda: trainable.state() | {"recommended": "raw"})

    def prune(self) -> None:
        """Keep the newest `keep_last_n_checkpoints` numbered files; -1 keeps all."""
        keep = self.settings.keep_last_n_checkpoints
        files = numbered_checkpoints(self.path)
        for path in files[: len(files) - keep] if keep >= 0 and self.is_main else []:
            path.unlink()


def without(path: Path) -> str:
    """How a run goes on when a checkpoint of its is damaged: from the newest older one that is whole."""
    damaged = [path.name]
    for older in reversed([file for file in numbered_checkpoints(path.parent) if file != path]):
        try:
            read_checkpoint(older)
        except ValueError:
            damaged.append(older.name)
        else:
            return f"move {' and '.join(damaged)} out of {path.parent}, and the same command goes on from {older.name}"
    return f"no other of {path.parent} is whole: bring a copy of it, or move {' and '.join(damaged)} away to start anew"


@contextmanager
def written_to(save_dir: Path) -> Iterator[None]:
    """Where a file of a run cannot be written: the key that says where to, and how the run goes on."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{error}; point ckpts.save_dir={save_dir} to a larger volume: what was saved before is whole, and copied "
            "there the run goes on from it"
        ) from error


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
