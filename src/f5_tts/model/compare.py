"""Comparison of a state from a file with that of the object which is to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from f5_tts.model.safe_load import is_dense

NON_NEGATIVE = ("step", "exp_avg_sq", "rollouts")  # counters, and the squares whose roots an optimizer divides by
LARGEST = 2.0**63  # of single numbers
NOT_DENSE = "is no dense tensor with all its values in the file"


def first_mismatch(found: Any, expected: Any, name: str) -> str | None:
    """Describe the first place where a state has other names, types, dtypes or shapes than expected, or None."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        if differing := found.keys() ^ expected.keys():
            key = min(differing, key=str)
            return f"{name} {'has' if key in found else 'lacks'} {str(key)[:80]!r}"
        pairs = ((found[key], value, f"{name}.{key}") for key, value in expected.items())
        return next(filter(None, (first_mismatch(*pair) for pair in pairs)), None)
    if isinstance(found, list) and isinstance(expected, list) and expected:
        return first_mismatch(dict(enumerate(found)), dict(enumerate(expected)), name)
    one, other = describe(found), describe(expected)
    if isinstance(found, Tensor) and not is_dense(found):
        return f"{name} {NOT_DENSE}"
    return None if one == other else f"{name} is {one}, where {other} is expected"


def describe(value: Any) -> str:
    """Describe the type of a value, of a tensor dtype and shape."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
    if isinstance(value, Mapping):
        return "a dict"
    return "a number" if type(value) in (int, float) else type(value).__name__


def first_bad_value(state: Any, name: str) -> str | None:
    """Describe the first number or tensor of a state that is not finite, or negative where it must not be."""
    if isinstance(state, (Mapping, list)):
        items = state.items() if isinstance(state, Mapping) else enumerate(state)
        return next(filter(None, (first_bad_value(value, f"{name}.{key}") for key, value in items)), None)
    if not isinstance(state, (Tensor, int, float)):
        return None
    if isinstance(state, Tensor) and not is_dense(state):
        return f"{name} {NOT_DENSE}"
    if not (state.isfinite().all() if isinstance(state, Tensor) else -LARGEST < state < LARGEST):
        return f"{name} holds numbers that are NaN, infinite or too large"
    negative = bool((state < 0).any()) if isinstance(state, Tensor) else state < 0
    return f"{name} is negative" if negative and name.rpartition(".")[2] in NON_NEGATIVE else None
