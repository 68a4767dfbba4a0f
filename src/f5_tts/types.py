"""Objects that cross from one room to another, in the order of the flow."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One training item: the prompt (what is given) followed by the target (what is to be spoken)."""

    mel: Float[Tensor, "n d"]  # log-mel of both, natural log
    prompt_frames: int  # how many frames at the start are prompt; 0 where the stage decides
    text: str  # what is said in all frames, the prompt's included
    target_text: str  # what is said after the prompt
    prompt_id: int  # names the pair (prompt, text); samples drawn for it form a group


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechBatch:
    """Utterances padded to one length."""

    mel: Float[Tensor, "b n d"]  # padded with zeros
    lens: Int[Tensor, " b"]  # valid frames
    prompt_lens: Int[Tensor, " b"]  # frames of the prompt; 0 where the stage decides
    text: Int[Tensor, "b nt"]  # token ids, padded with -1
    target_texts: list[str]  # what a perfect sample says after the prompt
    group_ids: Int[Tensor, " b"]  # samples of one prompt share an id

    def to(self, device: torch.device) -> SpeechBatch:
        return on_device(self, device)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardInput:
    """One generated clip and what it should have been; providers see nothing else."""

    audio: Float[Tensor, " nw"]  # the generated span alone, mono, about [-1, 1]
    sample_rate: int  # Hz, of both clips
    text: str  # what the clip should say
    reference_audio: Float[Tensor, " nr"] | None = None  # the prompt's voice
    language: str = "en"


class RewardProvider(Protocol):
    """Scores finished clips; higher is better."""

    component: str  # what the number is, e.g. "acc"; logged as reward/<provider>.<component>

    def score(self, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardBatch:
    """What the reward models said about a rollout."""

    total: Float[Tensor, " b"]  # weighted sum of the parts
    parts: dict[str, Float[Tensor, " b"]]  # "<provider>.<component>" -> raw score, before weights
    weights: dict[str, float]  # by the same names


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOutput:
    """What an objective returns; `metrics` are detached scalars."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, ""]]


def on_device(carrier: Any, device: torch.device) -> Any:
    """The same carrier with its tensors on `device`."""
    values = {f.name: getattr(carrier, f.name) for f in fields(carrier)}
    return replace(carrier, **{k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)})
