"""Runs of a report that differ by their seed alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from f5_tts.report.run_record import RunRecord

SEED = "optim.seed"
OF_ONE_RUN = (SEED, "ckpts.save_dir", "ckpts.wandb_run_name", "ckpts.wandb_resume_id")  # they differ between seeds


def group_by_seed(records: Mapping[str, RunRecord]) -> list[list[str]]:
    """Group the titles of runs that differ by their seed alone, in the order of the first of each group."""
    groups: dict[Any, list[str]] = {}
    for title, record in records.items():
        groups.setdefault(settings_of(record) if record.config else title, []).append(title)
    return [part for group in groups.values() for part in distinct(group, records)]


def settings_of(record: RunRecord) -> tuple[str, ...]:
    """Return what a run has in common with those of other seeds."""
    shared = sorted(f"{key}={value!r}" for key, value in record.config.items() if key not in OF_ONE_RUN)
    return (record.data_set, *shared)


def distinct(group: list[str], records: Mapping[str, RunRecord]) -> list[list[str]]:
    """Return one group of runs, or each run by itself where two have the same seed."""
    seeds = {records[title].config.get(SEED) for title in group}
    return [group] if len(seeds) == len(group) else [[title] for title in group]


def shared_title(titles: Sequence[str]) -> str:
    """Return one title for several: run_{1,2} for run_1 and run_2, as shells write it, else all of them."""
    parts = list(zip_longest(*(re.split(r"(\d+)", title) for title in titles)))
    if [len(set(part)) > 1 for part in parts].count(True) != 1 or None in parts[-1]:
        return ", ".join(titles)
    return "".join(part[0] if len(set(part)) == 1 else f"{{{','.join(part)}}}" for part in parts)
