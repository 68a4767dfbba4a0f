"""Settings of a run that change its result; a checkpoint records them, and a resume says what has changed since."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from f5_tts.config.checks import as_override, typed_values
from f5_tts.config.schema import TrainConfig
from f5_tts.data.rows import Row
from f5_tts.model.checkpoint import Checkpoint
from f5_tts.model.payload import OPTIMIZER
from f5_tts.threads import is_set_by_user, usable_cpus
from f5_tts.train.held_out import HELD_OUT

DATA_SET = "the data set"  # entry beside the config keys: its size and checksum
THREADS = "the number of threads"  # entry beside the config keys: sums of floats depend on it
NEED_PERMISSION = (DATA_SET, "rl.algorithm")  # a run with another one is another run
WITHOUT_EFFECT = (
    "ckpts.",
    "eval.",
    "infer.",
    "audition.",
    "datasets.name",  # the rows count, see DATA_SET
    "datasets.max_empty_batches",
    "datasets.num_workers",
    "model.name",
    "model.sample_from_dist",
    "model.tokenizer_path",  # the symbols count, see check_spec
    "model.arch.checkpoint_activations",
    "optim.max_skips",
    "optim.shard",
    "optim.ema.device",
    "rl.ref_model_device",
    "rl.rewards.overlap",
    "rl.stop_when",
)  # keys, or prefixes of keys, that leave the result as it is
REPORTED_ELSEWHERE = (
    "model.backbone",
    "model.tokenizer",
    "model.arch.",
    "model.mel_spec.",
    "lora.",
    "optim.learning_rate",
    "optim.bnb_optimizer",
)  # those that a resume compares by other entries of the checkpoint


def settings_of(cfg: TrainConfig) -> dict[str, Any]:
    """Return all keys that change the result of a run, with their values."""
    values = {key: value for key, value, _ in typed_values(cfg) if ".worker" not in key}
    return {key: value for key, value in values.items() if not key.startswith(WITHOUT_EFFECT)}


def resumed_payload(cfg: TrainConfig, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Return the contents of the checkpoint that a run resumes from; nothing where it starts."""
    payload = {} if checkpoint is None else checkpoint.payload
    return payload if payload.get("objective") == cfg.model.objective and OPTIMIZER in payload else {}


def keep_precision(requested: str, key: str, payload: Mapping[str, Any], log: Callable[[str], None]) -> str:
    """Return what `auto` became before in the run that is resumed, and say so; other precisions as they are."""
    saved = payload.get("settings", {}).get(key, "auto") or "no"
    if requested != "auto" or saved not in ("no", "fp16", "bf16"):
        return requested
    log(f"{key}=auto: {'single precision' if saved == 'no' else saved}, as before")
    return saved


def describe_threads() -> dict[str, int]:
    """Return the entry for the number of threads."""
    return {THREADS: torch.get_num_threads()}


def keep_threads(checkpoint: Checkpoint, current: dict[str, Any], log: Callable[[str], None]) -> None:
    """Compute with as many threads as the checkpoint's run, unless the user has chosen a number or has fewer cores."""
    saved = checkpoint.payload.get("settings", {}).get(THREADS)
    is_allowed = type(saved) is int and 1 <= saved <= usable_cpus()
    if is_allowed and saved != torch.get_num_threads() and not is_set_by_user():
        torch.set_num_threads(saved)
        current[THREADS] = saved
        log(f"computing with {saved} threads, as before, since the result depends on it; OMP_NUM_THREADS changes it")


def describe_rows(rows: Sequence[Row]) -> dict[str, str]:
    """Return the entry for the data set: how many rows, and a checksum of texts, speakers and durations in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.sentence}\0{row.speaker}\0{row.duration:.2f}\n".encode(errors="surrogatepass"))
    return {DATA_SET: f"{len(rows)} rows with checksum {digest.hexdigest()[:8]}"}


def compare_settings(
    checkpoint: Checkpoint, current: dict[str, Any], allow_changed: bool, log: Callable[[str], None]
) -> None:
    """Report each setting that differs from that of the checkpoint's run; older checkpoints record none.

    Raises:
        ValueError: the data set or the algorithm differs, without ckpts.allow_changed.
    """
    saved = checkpoint.payload.get("settings", current)
    changed = [key for key in sorted(saved.keys() | current.keys()) if saved.get(key) != current.get(key)]
    unknown = {DATA_SET} - current.keys() | {THREADS} - saved.keys()  # not read by the doctor; of older checkpoints
    changed = [key for key in changed if key not in unknown]
    lines = {key: change_of(key, saved, current) for key in changed if key_is_reported_here(key)}
    other_run = [lines[key] for key in NEED_PERMISSION if key in lines]
    if other_run and not allow_changed:
        held_out = checkpoint.payload.get("validation", {}).get("dev") == HELD_OUT
        settings = "eval.dev=held_out, and eval.dev_items and optim.seed as before"
        hint = f"; it holds rows out for validations ({settings})" if held_out else ""
        raise ValueError(
            f"{checkpoint.path} is of another run: {'; '.join(other_run)}{hint}. Choose another ckpts.save_dir, with "
            f"ckpts.init_from={checkpoint.path} to start from these weights, or go on in this folder with "
            "ckpts.allow_changed=true"
        )
    for line in lines.values():
        log(line)


def key_is_reported_here(key: str) -> bool:
    """Check whether no other part of a resume reports a change of this key; dropout is no part of a model's spec."""
    return key == "model.arch.dropout" or not key.startswith(REPORTED_ELSEWHERE)


def change_of(key: str, saved: dict[str, Any], current: dict[str, Any]) -> str:
    """Describe how a setting has changed."""
    old, new = (as_override(side[key]) if key in side else "absent" for side in (saved, current))
    return f"{key} is {new} from here on; before it was {old}"
