"""Files that a run needs and that are missing: the doctor tells them before it imports what other checks need."""

from __future__ import annotations

from collections.abc import Iterator

from f5_tts.config.checks import call_all
from f5_tts.config.schema import TrainConfig
from f5_tts.train.flags import data_checks, start_checks


def missing_files(cfg: TrainConfig) -> Iterator[tuple[str, str]]:
    """Yield the name of each check that fails because files are missing, and what to do."""
    for name, checks in (("data", data_checks(cfg)), ("checkpoint", start_checks(cfg))):
        _, errors = call_all(checks)
        if errors:
            yield name, "; ".join(map(str, errors))
