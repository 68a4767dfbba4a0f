"""Checkpoints of other runs in a folder: where a run starts or resumes, they are moved to `set_aside/`."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

from f5_tts.files import write_atomically
from f5_tts.model.checkpoint import BEST, LAST, numbered_checkpoints, read_checkpoint, update_of
from f5_tts.train.train_state import TrainState

FOLDER = "set_aside"


def set_aside_others(folder: Path, start: Path | None, state: TrainState, log: Callable[[str], None] = print) -> None:
    """Move checkpoints that a run would overwrite, or take for its own, to `set_aside/`, and report them.

    At a start these are all; the one that the run starts from stays as model_last.pt. After a resume they are those
    above the update that the run goes on from, unless it makes the same ones again: those of its own stage and
    settings, which a killed run left. model_best.pt goes by the update that it holds.
    """
    later = [path for path in numbered_checkpoints(folder) if update_of(path) > state.update]
    later += [path for path in [folder / BEST] if path.is_file() and update_in(path) > state.update]
    if state.update > 0 and all(is_made_again(path, state) for path in later):
        return
    if start in later:
        write_atomically(folder / LAST, lambda tmp_path: shutil.copyfile(start, tmp_path))
    for path in later:
        path.rename(free_name(folder / FOLDER / path.name))
    if later:
        names = ", ".join(path.name for path in later)
        log(
            f"{names} of {folder}: not of this run at update {state.update}, which goes on without them; moved to "
            f"{folder / FOLDER}"
        )


def update_in(path: Path) -> float:
    """Return the update that a checkpoint holds; infinity for a damaged one."""
    try:
        return float(read_checkpoint(path).update)
    except ValueError:
        return math.inf


def is_made_again(path: Path, state: TrainState) -> bool:
    """Check whether a checkpoint is of the stage and the settings of this run; a damaged one is not."""
    try:
        payload = read_checkpoint(path).payload
    except ValueError:
        return False
    return (payload.get("objective"), payload.get("settings")) == (state.objective, state.settings)


def free_name(path: Path) -> Path:
    """Make the folder of a path; return the path, with a number after the name if there is such a file."""
    path.parent.mkdir(exist_ok=True)
    names = (path if number == 1 else path.with_stem(f"{path.stem}_{number}") for number in count(1))
    return next(name for name in names if not name.exists())
