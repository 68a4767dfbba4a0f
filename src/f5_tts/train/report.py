"""Metrics -> the progress bar and `metrics.jsonl`, one row an update."""

from __future__ import annotations

import json
from pathlib import Path

from tqdm import tqdm

SHOWN = ("loss", "reward/mean", "loss/kl")  # on the progress bar; the file has all


class Report:
    """Writes each update once: rows past the update that a run resumes at are dropped."""

    def __init__(self, folder: Path, *, first: int, total: int, title: str) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [line for line in self.lines() if json.loads(line)["update"] <= first]
        part = self.path.with_suffix(".part")
        part.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        part.replace(self.path)
        self.bar = tqdm(total=total, initial=first, desc=title, unit="update", mininterval=1.0)

    def lines(self) -> list[str]:
        """The complete rows of the file; a row cut short by a crash is none."""
        if not self.path.is_file():
            return []
        return [line for line in self.path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]

    def __call__(self, metrics: dict[str, float], update: int) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"update": update, **metrics}) + "\n")
        self.bar.set_postfix({name: f"{metrics[name]:.4g}" for name in SHOWN if name in metrics}, refresh=False)
        self.bar.update()

    def close(self) -> None:
        self.bar.close()
