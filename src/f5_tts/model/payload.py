"""Contents of a checkpoint file: the types and ranges of its entries, checked before any is used."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from f5_tts.model.safe_load import check_tensors, is_dense

RAW, EMA = "model_state_dict", "ema_model_state_dict"  # keys of the weights in a training checkpoint
OPTIMIZER, SCHEDULE = "optimizer_state_dict", "scheduler_state_dict"
LORA = "lora"  # key of LoRA settings and adapters in a training checkpoint, whose weights are merged
TRAINING_KEYS = (RAW, EMA, SCHEDULE, "update")  # what a run resumes from besides its optimizer
MAX_DEPTH = 8  # of a nested section of settings


def is_count(value: Any) -> bool:
    """Check whether a value is an integer of 0 or more that fits into 63 bits."""
    return type(value) is int and 0 <= value < 2**63


def is_text(value: Any) -> bool:
    """Check whether a value is a text."""
    return isinstance(value, str)


def is_dict(value: Any) -> bool:
    """Check whether a value is a dict."""
    return isinstance(value, dict)


def is_skips(value: Any) -> bool:
    """Check whether a value is the counts of skipped updates, which older files lack."""
    return is_dict(value) and value.keys() in ({"total", "in_a_row"}, set()) and all(map(is_count, value.values()))


def is_origin(value: Any) -> bool:
    """Check whether a value names a file beside the checkpoint and its SHA-256."""
    if not is_dict(value) or value.keys() != {"file", "sha256"} or not all(map(is_text, value.values())):
        return False
    return re.fullmatch(r"\w[\w.-]*", value["file"]) is not None


def is_validation(value: Any) -> bool:
    """Check whether a value is the interval and the items of a run's validations."""
    return (
        is_dict(value)
        and value.keys() == {"every_updates", "dev"}
        and is_count(value["every_updates"])
        and value["every_updates"] > 0
        and (value["dev"] is None or is_text(value["dev"]))
    )


def is_vocabulary(value: Any) -> bool:
    """Check whether a value is a list of symbols."""
    return isinstance(value, list) and all(map(is_text, value))


def is_counts(value: Any) -> bool:
    """Check whether a value is a list of integers of 0 or more."""
    return isinstance(value, list) and all(map(is_count, value))


def is_section(value: Any) -> bool:
    """Check whether a value is a section of a config: plain values, lists and sections by name."""
    return is_dict(value) and is_plain(value)


def is_plain(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Check whether a value holds no more than texts, numbers and None, in lists and dicts of a small depth."""
    if isinstance(value, (list, dict)) and depth > 0:
        entries = value.values() if isinstance(value, dict) else value
        return all(map(is_text, value if isinstance(value, dict) else ())) and all(
            is_plain(entry, depth - 1) for entry in entries
        )
    return value is None or isinstance(value, (str, int, float))


def is_adapters(value: Any) -> bool:
    """Check whether a value is the settings of LoRA with the raw and the averaged adapters."""
    if not is_dict(value) or value.keys() != {"settings", "raw", "ema"} or not is_section(value["settings"]):
        return False
    return all(
        is_dict(value[kind]) and all(is_text(name) and is_weight(tensor) for name, tensor in value[kind].items())
        for kind in ("raw", "ema")
    )


def is_weight(value: Any) -> bool:
    """Check whether a value is a tensor all of whose values are in the file."""
    return isinstance(value, Tensor) and is_dense(value)


ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "update": (is_count, "an integer of 0 or more"),
    "step": (is_count, "an integer of 0 or more"),
    "batches": (is_count, "an integer of 0 or more"),
    "processes": (lambda value: is_count(value) and value > 0, "an integer of 1 or more"),
    "skips": (is_skips, "the counts total and in_a_row"),
    "bad_rows": (is_counts, "a list of row indices"),
    "numbered": (is_counts, "a list of updates"),
    "settings": (is_section, "a section of plain values"),
    "validation": (is_validation, "every_updates, an integer above 0, and dev, a text or none"),
    "origin": (is_origin, "the name of a file in the same folder and its sha256"),
    "objective": (is_text, "a text"),
    "optimizer_class": (is_text, "a text"),
    "recommended": (lambda value: is_text(value) and value in ("raw", "ema"), "raw or ema"),
    "model": (is_section, "a section of plain values"),
    "vocabulary": (is_vocabulary, "a list of symbols"),
    OPTIMIZER: (is_dict, "a dict"),
    SCHEDULE: (is_dict, "a dict"),
    LORA: (is_adapters, "settings with raw and ema adapters"),
}  # optional entries of a checkpoint: whether a value is allowed, and what is


def check_payload(payload: Mapping[Any, Any], path: Path) -> None:
    """Check the entries of a checkpoint; raise ValueError that names all wrong ones."""
    problems = [
        f"{key} is {quote(payload[key])}, where {expected} is expected"
        for key, (is_allowed, expected) in ENTRIES.items()
        if key in payload and not is_allowed(payload[key])
    ]
    if problems:
        raise ValueError(f"{path} is no checkpoint: {'; '.join(problems)}")
    for weights in (payload.get(RAW, {}), payload.get(EMA, {})):
        check_tensors(weights, path)
        step = weights.get("step")
        if step is not None and not (step.numel() == 1 and 0 <= step.item() < 2**63):
            raise ValueError(f"{path} is no checkpoint: its step is not a single number of 0 or more")


def training_problems(payload: Mapping[Any, Any]) -> list[str]:
    """List what is missing or contradictory in the training state of a run of this project."""
    if missing := [key for key in TRAINING_KEYS if payload.get(key, {}) == {}]:
        return [f"it has {OPTIMIZER} and no {key}" for key in missing]
    update, schedule = payload["update"], payload[SCHEDULE]
    place, rates = schedule.get("last_epoch"), schedule.get("base_lrs")
    problems = [] if is_count(place) and place == update else [f"update is {update} and its schedule at {quote(place)}"]
    if not (isinstance(rates, list) and rates and all(map(is_rate, rates))):
        problems.append(f"the learning rates of its schedule (base_lrs) are {quote(rates)}")
    return problems


def is_rate(value: Any) -> bool:
    """Check whether a value is a learning rate."""
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def quote(value: Any) -> str:
    """Quote a short value, and name the type of any other."""
    text = repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:40]}..."
