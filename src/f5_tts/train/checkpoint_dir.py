"""The folder of a run's checkpoints: its lock, what is saved, kept and found there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from f5_tts.config.schema import CkptsConfig
from f5_tts.download.hub import find_file
from f5_tts.files import make_folder
from f5_tts.model.checkpoint import (
    PARTS,
    Checkpoint,
    find_checkpoint,
    numbered_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from f5_tts.model.fsdp import whole
from f5_tts.model.lora import merged_weights
from f5_tts.train.train_state import Trainable


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
