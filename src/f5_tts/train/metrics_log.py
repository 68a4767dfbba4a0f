"""Metrics of updates on the progress bar, in `metrics.jsonl` and in the tracker, with the alarms over them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from f5_tts.report.metric_rows import metric_rows
from f5_tts.train.alarms import AlarmFn, AlarmMonitor
from f5_tts.train.checkpoint_dir import explain_write_errors
from f5_tts.train.sample_log import Samples, write_samples
from f5_tts.train.set_aside import FOLDER, free_name
from f5_tts.train.trackers import Tracker

BAR_METRICS = ("loss", "reward/mean", "loss/kl")  # metrics on the progress bar; the file has all of them


class MetricsLog:
    """Log of a run's metrics; rows after the update at which a run resumes are dropped.

    Where a run starts anew beside the rows of another one, that file is kept under another name.

    Only the main rank writes; the others do nothing. A tracker that fails is dropped with one warning: a run does not
    end for it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        first: int,
        total: int,
        title: str,
        alarms: Mapping[str, AlarmFn] | None = None,
        writes: bool = True,
        epoch: Callable[[], float] | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.path, self.writes, self.epoch = folder / "metrics.jsonl", writes, epoch
        rows = metric_rows(self.path) if writes else []
        past_rows = [row for row in rows if row["update"] <= first] if first else []
        if writes:
            if rows and not first:
                aside = self.path.rename(free_name(folder / FOLDER / self.path.name))
                print(f"{self.path} has the metrics of an earlier run, which are now in {aside}")
            tmp_path = self.path.with_suffix(".part")
            with explain_write_errors(folder):
                tmp_path.write_text("".join(json.dumps(row) + "\n" for row in past_rows), encoding="utf-8")
            tmp_path.replace(self.path)
        self.alarm_monitor = AlarmMonitor(alarms or {}, past_rows)
        self.bar = tqdm(total=total, initial=first, desc=title, unit="update", mininterval=1.0, disable=not writes)
        self.tracker = tracker if writes and first < total else None
        self.ask_tracker(lambda tracker: tracker.start(first))

    def __call__(self, metrics: Mapping[str, float], update: int) -> None:
        """Write the metrics of an update to file, progress bar and tracker, and check the alarms.

        Update 0 is what was measured before the first one. Numbers that are not finite are written as null.
        """
        if not self.writes:
            return
        active, lines = self.alarm_monitor(metrics)
        epoch_metrics = {} if self.epoch is None else {"epoch": self.epoch()}
        values = {**epoch_metrics, **metrics, **active}
        row = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with explain_write_errors(self.path.parent), self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"update": update, **row}, allow_nan=False) + "\n")
        for line in lines:
            self.write_line(f"update {update}: {line}")
        self.bar.set_postfix({name: f"{metrics[name]:.4g}" for name in BAR_METRICS if name in metrics}, refresh=False)
        self.bar.update(update - self.bar.n)
        finite = {name: value for name, value in row.items() if value is not None}
        self.ask_tracker(lambda tracker: tracker.log(finite, update))

    def is_active(self, alarm: str) -> bool:
        """Check whether an alarm is active; on ranks other than the main one none is."""
        return self.writes and self.alarm_monitor.is_active(alarm)

    def log_samples(self, samples: Samples, update: int) -> None:
        """Write the clips and the table of an update to the folder `samples`, and log them to the tracker."""
        if self.writes and samples.clips:
            with explain_write_errors(self.path.parent):
                write_samples(self.path.parent / "samples", samples, update)
            self.ask_tracker(lambda tracker: tracker.log_samples(samples, update))

    def ask_tracker(self, action: Callable[[Tracker], None]) -> None:
        """Call the tracker, if there is one; drop it with a warning if it fails."""
        if self.tracker is None:
            return
        try:
            action(self.tracker)
        except Exception as error:  # a library that uses disk, network and its own processes may raise anything
            name, self.tracker = type(self.tracker).__name__, None
            self.write_line(
                f"warning: tracker {name} failed ({error!r}) and is switched off; {self.path} has all metrics"
            )

    def write_line(self, line: str) -> None:
        """Print a line on the console, above the progress bar."""
        if self.writes:
            self.bar.write(line)

    def close(self) -> None:
        """Close the progress bar and the tracker."""
        self.bar.close()
        self.ask_tracker(lambda tracker: tracker.close())
