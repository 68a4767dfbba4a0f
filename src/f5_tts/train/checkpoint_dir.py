"""Folder of a run's checkpoints: its lock, and what is saved, kept and found there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from f5_tts.config.schema import CkptsConfig
from f5_tts.download.hub import find_file
from f5_tts.files import ensure_writable_dir
from f5_tts.model.checkpoint import (
    BEST,
    LAST,
    TEMP_GLOB,
    Checkpoint,
    find_checkpoint,
    numbered_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from f5_tts.model.fsdp import gather_full_state
from f5_tts.model.lora import merged_weights
from f5_tts.train.flags import no_policy
from f5_tts.train.set_aside import set_aside_others
from f5_tts.train.train_state import TrainState, first_bad_state


class CheckpointDir:
    """Folder of a run's checkpoints; the main rank writes, and all ranks read."""

    def __init__(self, settings: CkptsConfig, is_main: bool = True, is_sharded: bool = False) -> None:
        self.settings, self.is_main, self.is_sharded = settings, is_main, is_sharded
        self.path = Path(settings.save_dir)
        self.start: Path | None = None  # file of the folder that the run starts or resumes from
        self.is_numbered_due, self.is_last_due = False, False  # whether a save was put off
        self.lock = FileLock(self.path / ".lock", timeout=0, is_singleton=True)

    def prepare(self) -> None:
        """Create the folder, lock it against other runs, and delete half-written files of a killed one.

        Raises OSError where the folder cannot be written, ValueError where another run holds the lock.
        """
        if self.is_main:
            ensure_writable_dir(self.path, "ckpts.save_dir")
            self.acquire_lock()
            for tmp_path in self.path.glob(TEMP_GLOB):
                tmp_path.unlink()

    def acquire_lock(self) -> None:
        """Lock the folder until the lock is released or this process ends, in whatever way.

        Raises ValueError where another run holds the lock.
        """
        try:
            self.lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"another run is writing to ckpts.save_dir={self.path}: let it end, or choose another folder (several "
                "processes of one run are started by torchrun)"
            ) from error
        except NotImplementedError:  # the file system has no locks
            pass

    def release_lock(self) -> None:
        """Release the lock of the folder."""
        self.lock.release()

    def write(self, name: str, payload: Callable[[], dict[str, object]]) -> None:
        """Write a checkpoint on the main rank; with sharded models all ranks must call this to gather the weights.

        Raises FloatingPointError where a number of its states is not finite, before any file is written.
        """
        state = gather_full_state(payload()) if self.is_main or self.is_sharded else {}
        if self.is_main:
            require_finite(state)
            with explain_write_errors(self.path):
                write_checkpoint(self.path / name, state)

    def find_latest(self, *, pretrained: bool) -> Checkpoint | None:
        """Find the checkpoint that a run starts or resumes from: the folder's own, else ckpts.init_from, else None.

        Of `pretrained_*` files and of ckpts.init_from it takes the weights alone: those that the file recommends, as
        evaluation does, and the average where it does not say.
        """
        path, init_from = find_checkpoint(self.path, pretrained=pretrained), self.settings.init_from
        self.start = path
        if path is None:
            return (
                None if init_from is None else start_weights(read_checkpoint(find_file(init_from, "ckpts.init_from")))
            )
        if init_from is not None and self.is_main:
            print(f"ckpts.init_from={init_from} applies to new runs only and is ignored: {path} exists")
        checkpoint = self.read(path)
        return start_weights(checkpoint) if path.name.startswith("pretrained_") else checkpoint

    def read(self, path: Path) -> Checkpoint:
        """Read a checkpoint; for a damaged one, raise ValueError that says how to go on without it."""
        try:
            return read_checkpoint(path)
        except ValueError as error:
            raise ValueError(f"{error}; {recovery_advice(path)}") from error

    def find_start(self) -> Checkpoint:
        """Find the checkpoint that stage 2 starts or resumes from; `pretrained_*` files of the folder are ignored.

        Raises FileNotFoundError without one.
        """
        checkpoint = self.find_latest(pretrained=False)
        if checkpoint is None:
            raise no_policy(self.path)
        return checkpoint

    def save_initial_weights(self, state: TrainState) -> None:
        """Save the initial weights of a run, unless the state names some, and record their file and sha256."""
        name = "reference.pt"
        if state.initial_weights is not None:
            return
        self.write(name, lambda: {"model_state_dict": merged_weights(state.model), **asdict(state.spec)})
        if self.is_main:
            state.initial_weights = {"file": name, "sha256": sha256_of(self.path / name)}

    def set_aside_others(self, state: TrainState) -> None:
        """Move checkpoints of other runs out of the way, see set_aside.py; all ranks must have read theirs."""
        if self.is_main:
            set_aside_others(self.path, self.start, state)

    def save_if_due(self, state: TrainState, was_skipped: bool = False) -> bool:
        """Save `model_<update>.pt` and `model_last.pt` when they are due; return whether it was a numbered one.

        A save that is due while updates are skipped is put off to the first one that is not: the weights may be why.
        For the same reason a numbered file has the older ones deleted only once the update after it was not skipped.
        """
        self.is_numbered_due |= state.update % self.settings.save_per_updates == 0
        self.is_last_due |= self.is_save_due(state.update)
        if was_skipped:
            return False
        self.prune(state)
        is_numbered = self.is_numbered_due
        if is_numbered:
            self.save_numbered(state)
        if self.is_last_due:
            self.save_last(state)
        self.is_numbered_due, self.is_last_due = False, False
        return is_numbered

    def is_save_due(self, update: int) -> bool:
        """Check whether a file is due after this many updates, or was put off."""
        periods = self.settings.save_per_updates, self.settings.last_per_updates
        return self.is_numbered_due or self.is_last_due or any(update % period == 0 for period in periods)

    def save_numbered(self, state: TrainState) -> None:
        """Save `model_<update>.pt`."""
        state.numbered = [*state.numbered, state.update]
        self.write(f"model_{state.update}.pt", state.payload)

    def prune(self, state: TrainState) -> None:
        """Delete the oldest numbered files of this run; `keep_last_n_checkpoints` of -1 keeps all."""
        num_kept = self.settings.keep_last_n_checkpoints
        num_old = max(0, len(state.numbered) - num_kept) if num_kept >= 0 else 0
        for update in state.numbered[:num_old] if self.is_main else []:
            (self.path / f"model_{update}.pt").unlink(missing_ok=True)
        state.numbered = state.numbered[num_old:]

    def save_last(self, state: TrainState) -> None:
        """Save `model_last.pt`."""
        self.write(LAST, state.payload)

    def save_end(self, state: TrainState) -> None:
        """Save the state at the end of a run; while updates are being skipped, beside `model_last.pt`, not over it."""
        with self.explain_divergence(state):
            if not (state.skips.in_a_row and (self.path / LAST).is_file()):
                self.prune(state)
                return self.save_last(state)
            name = f"model_{state.update}.pt"
            self.write(name, state.payload)
        if self.is_main:
            print(f"the last updates were skipped: {self.path / LAST} is from before them, {name} from after them")

    @contextmanager
    def explain_divergence(self, state: TrainState) -> Iterator[None]:
        """Add to a FloatingPointError of the body which checkpoints of the run are from before it, newest first."""
        try:
            yield
        except FloatingPointError as error:
            names = [LAST, *[f"model_{update}.pt" for update in reversed(state.numbered)]]
            saved = [name for name in names if (self.path / name).is_file()][:3]
            left = f"{' and '.join(saved)} in {self.path} are from before" if saved else "nothing was saved before"
            raise FloatingPointError(f"{error}; {left}") from error

    def save_best(self, state: TrainState, weights_kind: str = "raw") -> None:
        """Save `model_best.pt`, which recommends these weights; no run resumes from it, and it is never pruned."""
        self.write(BEST, lambda: state.payload() | {"recommended": weights_kind})


def start_weights(checkpoint: Checkpoint) -> Checkpoint:
    """Return the weights alone that a checkpoint recommends, as the start of a new run."""
    return checkpoint.with_weights().weights_only()


def saved_state(settings: CkptsConfig) -> Checkpoint | None:
    """Read the checkpoint in the folder of a run, without its tensors; None where there is none that can be read.

    Why it cannot be read is said where the run loads it.
    """
    with suppress(ValueError, OSError):
        path = find_checkpoint(Path(settings.save_dir), pretrained=False)
        return None if path is None else read_checkpoint(path, mapped=True)
    return None


def origin_of(checkpoint: Checkpoint, objective: str | None = None) -> dict[str, str] | None:
    """Return file and sha256 of the initial weights that a checkpoint names.

    A run of another objective than the checkpoint's begins with the weights of the checkpoint itself.
    """
    is_start = objective is not None and checkpoint.payload.get("objective", objective) != objective
    return None if is_start else checkpoint.payload.get("origin")


def initial_weights(checkpoint: Checkpoint, objective: str | None = None) -> Checkpoint:
    """Return the initial weights of a run: `checkpoint` itself at the start, on a resume the file beside it.

    Raises FileNotFoundError or ValueError when that file is missing or has changed.
    """
    recorded = origin_of(checkpoint, objective)
    if recorded is None:
        return checkpoint
    path = checkpoint.path.with_name(recorded["file"])
    if not path.is_file():
        raise FileNotFoundError(
            f"{checkpoint.path} needs {path}, the weights at the start of the run, and this file is missing: "
            "restore it, or start again in another ckpts.save_dir"
        )
    if sha256_of(path) != recorded["sha256"]:
        raise ValueError(f"{path} is not the file that {checkpoint.path} started from (sha256 {recorded['sha256']})")
    return read_checkpoint(path)


def recovery_advice(path: Path) -> str:
    """Explain how a run goes on when a checkpoint is damaged: from the newest older one that can be read."""
    damaged = [path.name]
    for older in reversed([file for file in numbered_checkpoints(path.parent) if file != path]):
        try:
            read_checkpoint(older)
        except ValueError:
            damaged.append(older.name)
        else:
            return f"move {' and '.join(damaged)} out of {path.parent}, and the same command resumes from {older.name}"
    return (
        f"no other checkpoint in {path.parent} is complete: copy one there, or move {' and '.join(damaged)} away to "
        "start again"
    )


def require_finite(state: dict[str, Any]) -> None:
    """Raise FloatingPointError where a state of a checkpoint has a number that a resume would refuse."""
    if problem := first_bad_state(state):
        raise FloatingPointError(f"{problem} after update {state.get('update', 0)}; try a lower optim.learning_rate")


def require_dir(save_dir: Path) -> None:
    """Raise FileNotFoundError where the folder of a run was moved or removed while it trains."""
    if not save_dir.is_dir():
        raise FileNotFoundError(
            f"ckpts.save_dir={save_dir} is no longer there: it was moved or removed while the run trained; move it "
            "back, or set ckpts.save_dir to where it is now, and the run resumes from the checkpoint in it"
        )


@contextmanager
def explain_write_errors(save_dir: Path) -> Iterator[None]:
    """Add to an OSError of the body the config key of the folder, and how the run goes on.

    A folder that was there when the run started is not made again: its files are somewhere else now.
    """
    try:
        require_dir(save_dir)
        yield
    except OSError as error:
        require_dir(save_dir)
        raise OSError(
            f"{error}; point ckpts.save_dir={save_dir} to a larger volume: earlier checkpoints are complete, and the "
            "run resumes from them once they are copied there"
        ) from error


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
