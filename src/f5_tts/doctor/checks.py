"""The checks of the doctor, in order, and what each needs of the earlier ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import NamedTuple

from f5_tts.config.load import compose_run, schema_of
from f5_tts.config.schema import ConfigError, RLRunConfig, RunConfig
from f5_tts.doctor.context import Patient, sentence
from f5_tts.doctor.rewards import advantages, rewards
from f5_tts.doctor.run_setup import checkpoint, config, data, machine, packages
from f5_tts.doctor.update import cost, gradient, ratio, rollout


class Check(NamedTuple):
    """A look at one thing: what was seen, or an error that says what to do."""

    look: Callable[[Patient], str]
    needs: tuple[str, ...] = ()  # of what earlier checks build

    @property
    def name(self) -> str:
        return self.look.__name__


BUILT_BY = {
    "run": "config",
    "accelerator": "machine",
    "plan": "data",
    "rows": "data",
    "total": "data",
    "policy": "checkpoint",
    "trainable": "checkpoint",
    "scorer": "rewards",
    "experience": "rollout",
}
FIRST = [
    Check(packages),
    Check(machine),
    Check(config),
    Check(data, ("run",)),
    Check(checkpoint, ("run", "accelerator")),
]
CHECKS: dict[type[RunConfig], list[Check]] = {
    RunConfig: [
        *FIRST,
        Check(gradient, ("policy", "plan")),
        Check(cost, ("trainable", "total")),
    ],
    RLRunConfig: [
        *FIRST,
        Check(rewards, ("rows",)),
        Check(rollout, ("policy", "plan")),
        Check(ratio, ("experience",)),
        Check(gradient, ("experience",)),
        Check(advantages, ("experience", "scorer")),
        Check(cost, ("trainable", "total", "scorer")),
    ],
}


def admit(name: str, overrides: list[str]) -> tuple[Patient, list[Check]]:
    """The run that a command line asks for, or what is wrong with it, and the checks of its stage."""
    schema: type[RunConfig] = RLRunConfig
    try:
        schema = schema_of(name)
        patient = Patient(name)
        patient.run = compose_run(name, overrides, schema)
    except ConfigError as error:
        patient = Patient(name, error)
    return patient, CHECKS[schema]


def outcome(check: Check, patient: Patient) -> tuple[str, str]:
    """`ok`, `FAIL` or `--`, and what there is to say."""
    missing = [BUILT_BY[part] for part in check.needs if not hasattr(patient, part)]
    if missing:
        return "--", f"skipped: needs {', '.join(dict.fromkeys(missing))}"
    try:
        with redirect_stdout(sys.stderr):
            return "ok", check.look(patient)
    except Exception as error:  # of libraries and of the user's own code too, whatever they raise
        if os.environ.get("F5_TTS_TRACE") == "1":
            raise
        return "FAIL", sentence(error)
