"""The checks of the doctor, in order, and what each needs of the earlier ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import NamedTuple

from f5_tts.config.schema import RLTrainConfig, TrainConfig
from f5_tts.doctor.context import RunUnderTest, one_line_error
from f5_tts.doctor.rewards import advantages, judges, rewards
from f5_tts.doctor.run_setup import checkpoint, config, data, machine, packages
from f5_tts.doctor.update import cost, gradient, ratio, rollout
from f5_tts.plugins import USERS_CODE, exit_is_error


class Check(NamedTuple):
    """A check of the doctor: a function that returns what it measured or raises an error that says what to do."""

    check: Callable[[RunUnderTest], str]
    needs: tuple[str, ...] = ()  # attributes that earlier checks set

    @property
    def name(self) -> str:
        """Return the check's name as printed."""
        return self.check.__name__


BUILT_BY = {
    "accelerator": "machine",
    "plan": "data",
    "rows": "data",
    "judges": "data",
    "total": "data",
    "policy": "checkpoint",
    "state": "checkpoint",
    "scorer": "rewards",
    "experience": "rollout",
}
COMMON_CHECKS = [
    Check(packages),
    Check(machine),
    Check(config),
    Check(data),
    Check(checkpoint, ("accelerator",)),
    Check(judges, ("plan", "judges")),
]
CHECKS: dict[type[TrainConfig], list[Check]] = {
    TrainConfig: [
        *COMMON_CHECKS,
        Check(gradient, ("policy", "plan")),
        Check(cost, ("state", "total")),
    ],
    RLTrainConfig: [
        *COMMON_CHECKS,
        Check(rewards, ("rows",)),
        Check(rollout, ("policy", "plan")),
        Check(ratio, ("experience",)),
        Check(gradient, ("experience",)),
        Check(advantages, ("experience", "scorer")),
        Check(cost, ("state", "total", "scorer")),
    ],
}


def run_check(check: Check, run: RunUnderTest) -> tuple[str, str]:
    """Run a check; return `ok`, `FAIL` or `--` (skipped), and a message."""
    missing = [BUILT_BY[attribute] for attribute in check.needs if not hasattr(run, attribute)]
    if missing:
        return "--", f"skipped: needs {', '.join(dict.fromkeys(missing))}"
    try:
        with redirect_stdout(sys.stderr), exit_is_error(USERS_CODE):
            return "ok", check.check(run)
    except Exception as error:  # libraries and a user's own code may raise anything
        if os.environ.get("F5_TTS_TRACE") == "1":
            raise
        return "FAIL", one_line_error(error)
