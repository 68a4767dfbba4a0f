"""Structural mutations of nested states, drawn by hypothesis: entries that are left out, or of another kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

ODD: list[Any] = [
    *(None, True, 0, -1, 2**70, 1.5, -0.5, float("nan"), float("inf"), "", "3", "raw", "\x1b[2J"),
    *([], [1], [[1]], {}, {"a": 1}, (1, 2), torch.zeros(3), torch.zeros(2, 3), torch.tensor(float("nan"))),
]
OF_TENSORS: list[Callable[[Tensor], Any]] = [
    lambda value: value.half(),
    lambda value: value.double(),
    lambda value: value.long(),
    lambda value: value.flatten(),
    lambda value: value[None],
    lambda value: value.T.contiguous() if value.ndim == 2 else value.reshape(-1)[:1],
    lambda value: torch.zeros(()).expand(value.shape),
    lambda value: value.to_sparse(),
    lambda value: torch.full_like(value.float(), float("nan")),
    lambda value: -value if value.is_floating_point() else value,
    lambda value: torch.empty(value.shape, device="meta"),
]


def paths(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all entries of a nested state."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def copied(value: Any) -> Any:
    """Copy the containers of a nested state; tensors are shared."""
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    return [copied(entry) for entry in value] if isinstance(value, list) else value


def changes(state: dict[str, Any]) -> st.SearchStrategy[list[tuple[tuple[Any, ...], str, int]]]:
    """Draw one to three changes; half of them are of an entry of the first two levels, which few of all are."""
    every = list(paths(state))
    high = [path for path in every if len(path) <= 2]
    place = st.one_of(st.sampled_from(high), st.sampled_from(every))
    kind = st.sampled_from(["drop", "put", "edit", "rename"])
    return st.lists(st.tuples(place, kind, st.integers(0, 10**6)), min_size=1, max_size=3)


def changed(state: dict[str, Any], edits: list[tuple[tuple[Any, ...], str, int]]) -> dict[str, Any]:
    """Return a state with changes; a change of what another one has removed does nothing."""
    state = copied(state)
    for path, kind, number in edits:
        place: Any = state
        for key in path[:-1]:
            place = place[key] if isinstance(place, dict) and key in place else None
        if isinstance(place, dict) and path[-1] in place:
            change(place, path[-1], kind, number)
    return state


def is_dense(value: Any) -> bool:
    """Check for a tensor that no earlier change has made sparse or without data: all of OF_TENSORS take it."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def change(place: dict[Any, Any], key: Any, kind: str, number: int) -> None:
    """Change one entry in place."""
    value = place.pop(key)
    if kind == "put" or (kind == "edit" and not is_dense(value)):
        place[key] = ODD[number % len(ODD)]
    elif kind == "edit":
        place[key] = OF_TENSORS[number % len(OF_TENSORS)](value)
    elif kind == "rename":
        place[f"{key}_"] = value
