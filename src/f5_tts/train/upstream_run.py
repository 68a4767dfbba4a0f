"""Checkpoints of F5-TTS's own trainer as states of this project, so that its runs resume here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from f5_tts.model.checkpoint import NOT_WEIGHTS, Checkpoint
from f5_tts.model.payload import EMA, OPTIMIZER, RAW, SCHEDULE, is_count

EIGHT_BIT_STATE, EIGHT_BIT_CLASS = "state1", "bitsandbytes.AdamW8bit"  # a state of that optimizer alone, and its name
EMA_COUNTERS = ("initted", "step")


def is_upstream_run(payload: Mapping[str, Any]) -> bool:
    """Check whether a checkpoint is of F5-TTS's trainer: a whole state that does not name its objective."""
    is_whole = all(isinstance(payload.get(key), dict) for key in (RAW, EMA, OPTIMIZER, SCHEDULE))
    return (
        is_whole and "objective" not in payload and is_count(payload.get("update")) and has_states(payload[OPTIMIZER])
    )


def has_states(optimizer: Mapping[str, Any]) -> bool:
    """Check whether a saved optimizer has one group of parameters, and states by number."""
    groups, states = optimizer.get("param_groups"), optimizer.get("state")
    is_one = isinstance(groups, list) and len(groups) == 1 and isinstance(groups[0], dict)
    return is_one and isinstance(states, dict) and all(isinstance(state, dict) for state in states.values())


def as_own_run(checkpoint: Checkpoint, model: nn.Module) -> Checkpoint:
    """Return a checkpoint of F5-TTS's trainer as one of plain training here; others as they are.

    Its optimizer numbers the parameters in the order of the weights in the file. Where in the schedule the run is
    follows from its updates; its scheduler counts them once for each process.
    """
    payload = checkpoint.payload
    if not is_upstream_run(payload):
        return checkpoint
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    numbers = {name: number for number, name in enumerate(name for name in payload[RAW] if name in set(trained))}
    states, (group,) = payload[OPTIMIZER]["state"], payload[OPTIMIZER]["param_groups"]
    kept = {i: states[numbers[name]] for i, name in enumerate(trained) if numbers.get(name) in states}
    is_8bit = any(EIGHT_BIT_STATE in state for state in states.values())
    own = {
        "objective": "mse",
        OPTIMIZER: {"state": kept, "param_groups": [{**group, "params": list(range(len(trained)))}]},
        SCHEDULE: {"last_epoch": payload["update"], "base_lrs": [group.get("initial_lr", group.get("lr"))]},
        EMA: {name: value for name, value in payload[EMA].items() if is_average(name)},
        **({"optimizer_class": EIGHT_BIT_CLASS} if is_8bit else {}),
    }
    return replace(checkpoint, payload={**payload, **own})


def is_average(name: str) -> bool:
    """Check whether an entry of an average is a weight or a counter, not a buffer of the mel in older files."""
    return name in EMA_COUNTERS or not name.removeprefix("ema_model.").startswith(NOT_WEIGHTS)
