"""Reward providers by the names that a config gives them; a provider's own libraries are imported when it is built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from f5_tts.types import RewardInput, RewardProvider, WordRewardProvider

PROVIDERS = {
    "digits_wer": "f5_tts.rewards.digits_wer:DigitsWer",
    "voice_sim": "f5_tts.rewards.voice_sim:VoiceSim",
}
ANNOUNCED = ("funasr_wer", "wespeaker_sim")


@runtime_checkable
class ProviderEntry(Protocol):
    """One item of `rl.rewards.providers`."""

    name: str
    weight: float
    config: dict[str, Any]  # the constructor's arguments


def build_providers(entries: Sequence[ProviderEntry]) -> dict[str, RewardProvider]:
    """The providers of `rl.rewards.providers`, by name."""
    providers: dict[str, RewardProvider] = {}
    for place, entry in enumerate(entries):
        if entry.name in providers:
            raise ValueError(f"rl.rewards.providers.{place}.name: {entry.name!r} is already in the list; give it once")
        providers[entry.name] = build_provider(entry, f"rl.rewards.providers.{place}")
    return providers


def build_provider(entry: ProviderEntry, where: str) -> RewardProvider:
    """One provider; `where` is its config key, for messages."""
    module, _, name = provider_path(entry.name, where).partition(":")
    make = getattr(import_module(module), name)
    arguments = inspect.signature(make)
    try:
        arguments.bind(**entry.config)
    except TypeError as error:
        takes = ", ".join(arguments.parameters) or "no keys"
        raise ValueError(f"{where}.config: {error}; {entry.name} takes {takes}") from None
    return make(**entry.config)


def provider_path(name: str, where: str) -> str:
    """The "module:class" that goes by this name."""
    if name in PROVIDERS:
        return PROVIDERS[name]
    known = ", ".join(PROVIDERS)
    if name in ANNOUNCED:
        raise ValueError(f"{where}.name: {name} comes in a later release; this one has {known}")
    raise ValueError(f"{where}.name: no reward provider is called {name!r}; there are {known}")


def score_words(providers: Mapping[str, RewardProvider], inputs: Sequence[RewardInput]) -> dict[str, Tensor]:
    """Scores word by word, of the providers that give them, by "<provider>.<component>"."""
    heard = {name: provider for name, provider in providers.items() if isinstance(provider, WordRewardProvider)}
    return {f"{name}.{provider.component}": provider.score_words(inputs) for name, provider in heard.items()}


def score_all(
    providers: Mapping[str, RewardProvider], inputs: Sequence[RewardInput], words: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Every provider's raw scores of all inputs, by "<provider>.<component>"; where `words` are known, made of them."""
    scores = {}
    for name, provider in providers.items():
        key = f"{name}.{provider.component}"
        score = words[key].nanmean(dim=1).clamp(min=0) if key in words else provider.score(inputs)
        scores[key] = checked(score, name, len(inputs))
    return scores


def checked(score: Tensor, name: str, num: int) -> Tensor:
    """One finite number a clip, or a ValueError that names the provider and the clips."""
    if score.shape != (num,):
        raise ValueError(f"reward provider {name} gave scores of shape {tuple(score.shape)} for {num} clips")
    if not score.isfinite().all():
        clips = (~score.isfinite()).nonzero().flatten().tolist()
        raise ValueError(f"reward provider {name} gave clips {clips} of {num} a score that is not finite")
    return score


def component_weights(entries: Sequence[ProviderEntry], providers: Mapping[str, RewardProvider]) -> dict[str, float]:
    """The entries' weights under the names of `score_all`, as `combine` wants them."""
    return {f"{entry.name}.{providers[entry.name].component}": entry.weight for entry in entries}
