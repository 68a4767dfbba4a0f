"""Metrics -> progress bar, `metrics.jsonl`, tracker: a row an update; alarms over them -> console and the same row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from f5_tts.train.alarms import Look, Watch
from f5_tts.train.samples import Samples, write_samples
from f5_tts.train.state import written_to
from f5_tts.train.trackers import Tracker

SHOWN = ("loss", "reward/mean", "loss/kl")  # on the progress bar; the file has all


class Report:
    """Writes each update once: rows past the update that a run resumes at are dropped.

    `writes` is for the main process of several: the others write and say nothing. A tracker that fails is given up with
    one warning: a run does not end for it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        first: int,
        total: int,
        title: str,
        alarms: Mapping[str, Look] | None = None,
        writes: bool = True,
        epoch: Callable[[int], float] | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.path, self.writes, self.epoch = folder / "metrics.jsonl", writes, epoch
        kept = [line for line in self.lines() if json.loads(line)["update"] <= first] if first else []
        if writes:
            part = self.path.with_suffix(".part")
            with written_to(folder):
                part.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            part.replace(self.path)
        self.watch = Watch(alarms or {}, [json.loads(line) for line in kept])
        self.bar = tqdm(total=total, initial=first, desc=title, unit="update", mininterval=1.0, disable=not writes)
        self.tracker = tracker if writes and first < total else None
        self.track(lambda tracker: tracker.start(first))

    def lines(self) -> list[str]:
        """The complete rows of the file; a row cut short by a crash is none."""
        if not self.path.is_file():
            return []
        return [line for line in self.path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]

    def __call__(self, metrics: Mapping[str, float], update: int) -> None:
        """`update` 0 is what was measured before the first; numbers that are not finite are written as null."""
        if not self.writes:
            return
        ringing, lines = self.watch(metrics)
        passes = {} if self.epoch is None else {"epoch": self.epoch(update)}
        seen = {**passes, **metrics, **ringing}
        row = {name: value if math.isfinite(value) else None for name, value in seen.items()}
        with written_to(self.path.parent), self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"update": update, **row}, allow_nan=False) + "\n")
        for line in lines:
            self.say(f"update {update}: {line}")
        self.bar.set_postfix({name: f"{metrics[name]:.4g}" for name in SHOWN if name in metrics}, refresh=False)
        self.bar.update(update - self.bar.n)
        finite = {name: value for name, value in row.items() if value is not None}
        self.track(lambda tracker: tracker.log(finite, update))

    def show(self, samples: Samples, update: int) -> None:
        """Clips and table of an update that has any, into the folder `samples` beside the metrics."""
        if self.writes and samples.clips:
            with written_to(self.path.parent):
                write_samples(self.path.parent / "samples", samples, update)
            self.track(lambda tracker: tracker.show(samples, update))

    def track(self, do: Callable[[Tracker], None]) -> None:
        """Ask the tracker, if there still is one."""
        if self.tracker is None:
            return
        try:
            do(self.tracker)
        except Exception as error:  # whatever a library raises that talks to disk, network and processes of its own
            name, self.tracker = type(self.tracker).__name__, None
            self.say(f"warning: tracker {name} failed ({error!r}) and gets no more; {self.path} has everything")

    def say(self, line: str) -> None:
        """A line on the console, above the bar."""
        if self.writes:
            self.bar.write(line)

    def close(self) -> None:
        self.bar.close()
        self.track(lambda tracker: tracker.close())
