"""Rewards, their registry, reward servers and the audit of rewards."""

from __future__ import annotations

from importlib import import_module
from typing import Any

FORK_TYPES = ("RewardInput", "RewardOutput", "RewardProvider")  # names that rewards of the guide's fork import


def __getattr__(name: str) -> Any:
    if name not in FORK_TYPES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.types"), name)
