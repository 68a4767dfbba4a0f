"""Finished parts of an evaluation that is under way, so that an interrupted one goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar, cast

import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.files import write_atomically

FOLDER = "unfinished"  # in eval.out; it is removed when the evaluation is finished
SETTINGS = "settings.json"
MAX_SHOWN = 10  # changed settings that are listed
T = TypeVar("T")


class Progress:
    """Folder of the finished parts of an evaluation, each a JSON file and maybe WAV files; None: nothing is kept."""

    def __init__(self, folder: Path | None = None, sample_rate: int = 1) -> None:
        self.folder, self.sample_rate = folder, sample_rate

    def part(self, name: str) -> Progress:
        """Return the progress of a part that has parts of its own."""
        return Progress(self.folder and self.folder / name, self.sample_rate)

    def kept(self, part: str, compute: Callable[[], T]) -> T:
        """Return the value of a finished part, else compute and keep it; it is what JSON can hold."""
        if self.folder is None:
            return compute()
        path = self.folder / f"{part}.json"
        if path.is_file():
            return cast(T, json.loads(path.read_text(encoding="utf-8")))
        value = compute()
        write_text(path, json.dumps(value))
        return value

    def kept_clips(
        self, part: str, names: Sequence[str], speak: Callable[[], list[Tensor]]
    ) -> list[Float[Tensor, " nw"]]:
        """Return the clips of a finished part, else make and keep them, as 32-bit WAV files, with the seconds it took.

        The JSON file is written last: a part without it is made again.
        """
        if self.folder is None:
            return speak()
        paths = [self.folder / part / f"{name}.wav" for name in names]

        def make() -> float:
            started = perf_counter()
            clips = speak()
            seconds = perf_counter() - started
            for path, clip in zip(paths, clips, strict=True):
                self.write_clip(path, clip)
            return seconds

        self.kept(part, make)
        return [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths]

    def write_clip(self, path: Path, clip: Float[Tensor, " nw"]) -> None:
        """Write a clip bit for bit."""
        samples, rate = clip.numpy(), self.sample_rate
        write_atomically(path, lambda part: soundfile.write(part, samples, rate, subtype="FLOAT", format="WAV"))

    def seconds(self, parts: str) -> float:
        """Return the seconds that the parts of clips in a folder took, those of earlier commands included."""
        assert self.folder is not None
        return sum(json.loads(path.read_text(encoding="utf-8")) for path in (self.folder / parts).glob("*.json"))


NOTHING_KEPT = Progress()


def open_progress(out: Path, settings: Mapping[str, Any], sample_rate: int) -> Progress:
    """Open what an interrupted evaluation with these settings finished; what other settings made is removed.

    Both cases are printed.
    """
    folder = out / FOLDER
    found = read_settings(folder / SETTINGS)
    current = json.loads(json.dumps(settings))
    if found == current:
        print(f"{folder}: an evaluation with the same settings was interrupted; it goes on")
        return Progress(folder, sample_rate)
    if folder.exists():
        print(
            f"{folder}: an interrupted evaluation had other settings ({changes(found, current)}); this one starts anew"
        )
        shutil.rmtree(folder)
    write_text(folder / SETTINGS, json.dumps(settings))
    return Progress(folder, sample_rate)


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings of an interrupted evaluation; none if there is no such file, or no such JSON in it."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """List the settings that differ."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join([*names[:MAX_SHOWN], *["..."] * (len(names) > MAX_SHOWN)])


def close_progress(out: Path) -> None:
    """Remove the parts of a finished evaluation."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its place, then rename it."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
