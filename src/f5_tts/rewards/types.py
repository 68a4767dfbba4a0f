"""Rewards as the fork of the two-stage guide writes them, with `setup` and `compute`, and their use as providers here.

Classes and fields are those that such rewards import: `from f5_tts.rewards.types import RewardProvider, RewardOutput`.
A new reward is written as docs/extending.md shows.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts import types


@dataclass
class RewardInput:
    """Clip that a reward of the fork scores."""

    audio: Tensor  # waveform, on the CPU
    text: str
    speaker_ref: Tensor | None = None  # waveform of the voice to imitate
    sample_rate: int = 24000
    meta: dict[str, Any] = field(default_factory=dict)  # columns of the data set, and `language`


@dataclass
class RewardOutput:
    """What a reward of the fork gives: for one clip, or for all of them with tensors of as many numbers."""

    total_reward: Any
    components: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, Any] = field(default_factory=dict)


class RewardProvider(ABC):
    """Base class of rewards of the fork."""

    name = "base"
    required_extras: Sequence[str] = ()

    def setup(self, cfg: dict[str, Any] | None = None) -> None:
        """Load what the reward needs; nothing by default."""
        return

    @abstractmethod
    def compute(self, batch: list[RewardInput]) -> Any:
        """Score clips: return a RewardOutput for each, or one for all."""

    def supports_language(self, lang: str) -> bool:
        """Check whether the reward scores this language."""
        return True


class ComputeAdapter:
    """Provider that wraps a reward of the fork: component `total` is its total_reward, the others are reported."""

    component = "total"

    def __init__(self, reward: Any) -> None:
        self.reward = reward

    def score(self, inputs: Sequence[types.RewardInput]) -> dict[str, Float[Tensor, " b"]]:
        """Score clips; NaN for those in a language that the reward does not support."""
        supports = getattr(self.reward, "supports_language", lambda language: True)
        known = [i for i, item in enumerate(inputs) if item.language == "auto" or supports(item.language)]
        outputs: Any = self.reward.compute([as_fork_input(inputs[i]) for i in known]) if known else []
        rows: list[Any] = [outputs] if hasattr(outputs, "total_reward") else list(outputs)
        values = {name: [row.components[name] for row in rows] for name in (rows[0].components if rows else ())}
        values |= {self.component: [row.total_reward for row in rows]}
        return {name: spread(column, known, len(inputs)) for name, column in values.items()}


def as_fork_input(item: types.RewardInput) -> RewardInput:
    """Return a clip as rewards of the fork expect it."""
    meta = {**item.row, "language": item.language}
    return RewardInput(item.audio.cpu(), item.text, item.reference_audio, item.sample_rate, meta)


def spread(values: Sequence[Any], places: Sequence[int], num: int) -> Float[Tensor, " b"]:
    """Put numbers, or one tensor of them, at their places among `num`; NaN elsewhere."""
    numbers = [torch.as_tensor(value, dtype=torch.float32).cpu().flatten() for value in values]
    column = torch.cat([torch.empty(0), *numbers])
    if len(column) != len(places):
        raise ValueError(f"compute gave {len(column)} numbers for {len(places)} clips")
    result = torch.full((num,), torch.nan)
    result[list(places)] = column
    return result


def is_fork_reward(target: Any) -> bool:
    """Check whether a class scores by `compute`, as rewards of the fork do."""
    return inspect.isclass(target) and callable(getattr(target, "compute", None)) and not hasattr(target, "score")


def build_fork_reward(target: Callable[..., Any], config: Mapping[str, Any]) -> ComputeAdapter:
    """Build a reward of the fork: `config` goes to its constructor where that takes these names, else to `setup`."""
    try:
        inspect.signature(target).bind(**config)
        arguments, settings = dict(config), ()
    except TypeError:
        arguments, settings = {}, (dict(config),)
    reward = target(**arguments)
    if callable(setup := getattr(reward, "setup", None)):
        setup(*settings)
    return ComputeAdapter(reward)
