"""Folders of runs and evaluations, as training and `evaluate` leave them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from f5_tts.eval.results import Result, write_result
from f5_tts.eval.statistics import Score
from f5_tts.rewards.asr.error_rate import char_errors, word_errors

RATE = 16_000
TEXTS = {"a": "one two three four", "b": "five six seven eight", "c": "nine one nine one"}


def tone(path: Path, hertz: float, seconds: float = 0.2) -> Path:
    """Write a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)
    soundfile.write(path, wave, RATE)
    return path


def score(name: str, text: str, heard: str, similarity: float = 0.5, **more: Any) -> Score:
    (edits, words), (char_edits, chars) = word_errors(text, heard), char_errors(text, heard)
    counts = {"edits": edits, "words": words, "char_edits": char_edits, "chars": chars}
    rest = {"seen": False, "stutters": False, "leaks": False, "similarity": similarity, **more}
    return Score(id=name, text=text, hypothesis=heard, **counts, **rest)


def write_evaluation(
    folder: Path,
    heard: Mapping[str, str],
    *,
    seconds: float = 0.2,
    prompt_s: float = 0.2,
    similarity: float = 0.5,
    **more: Any,
) -> Path:
    """Write an evaluation by Whisper with a clip and a prompt for each item: what was heard, by the id of TEXTS."""
    scores = [score(name, TEXTS[name], words, similarity) for name, words in heard.items()]
    fields = {"ckpt": "a.pt", "guidance": {"whisper": 2.0}, "dev_error_rates": {}, "rtf": 0.25, **more}
    write_result(Result(**{"scores": {"whisper": scores}, **fields}), folder)
    lines = []
    for name in heard:
        tone(folder / "wavs" / f"{name}.wav", 440, seconds)
        tone(folder / "prompts" / f"{name}.wav", 880, prompt_s)
        paths = {"prompt": f"prompts/{name}.wav", "clip": f"wavs/{name}.wav"}
        lines.append(json.dumps({"id": name, "text": TEXTS[name].title(), "prompt_text": "zero <b>", **paths}) + "\n")
    (folder / "examples.jsonl").write_text("".join(lines))
    return folder


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a metrics.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def updates(number: int) -> list[dict[str, Any]]:
    """Return the rows of a run: a validation before it and after its last update, and an alarm at the last two."""
    judged = {"eval/wer": 0.5, "eval/wer_ci95": 0.03}
    rows: list[dict[str, Any]] = [
        {"update": update, "reward/mean": float(update), "reward/std": 1.0, "loss/kl": 0.1, "grad_norm": 1.0}
        for update in range(1, number + 1)
    ]
    for row in rows[-2:]:
        row["health/alarm_no_spread"] = 1.0
    rows[-1] |= {"eval/wer": 0.2, "eval/wer_ci95": 0.04}
    return [{"update": 0, **judged}, *rows]


def write_samples(folder: Path, update: int) -> None:
    """Write the samples of an update: two of one prompt."""
    for name in ("gen", "worst", "ref"):
        tone(folder / "samples" / f"update_{update}_{name}.wav", 300)
    rows = [{"group": 3, "text": "six", "reward": reward, "asr.heard": f"r{reward}"} for reward in (0.25, 0.75)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "samples" / f"update_{update}.jsonl").write_text(lines)
