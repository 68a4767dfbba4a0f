"""Reward providers by the names that a config gives them; a provider's own libraries are imported when it is built."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from f5_tts.sections import ProviderConfig
from f5_tts.types import Numbers, RewardInput, RewardProvider, Scored, Scores, WordRewardProvider

PROVIDERS = {
    "digits_wer": "f5_tts.rewards.digits_wer:DigitsWer",
    "voice_sim": "f5_tts.rewards.voice_sim:VoiceSim",
    "funasr_wer": "f5_tts.rewards.funasr_wer:FunasrWer",
    "wespeaker_sim": "f5_tts.rewards.wespeaker_sim:WespeakerSim",
    "speech_rate": "f5_tts.rewards.guards:SpeechRate",
    "long_silence": "f5_tts.rewards.guards:LongSilence",
    "clipping": "f5_tts.rewards.guards:Clipping",
}


class Plain:
    """A provider made of whatever scores clips."""

    component = "score"

    def __init__(self, function: Callable[[Sequence[RewardInput]], Scores]) -> None:
        self.function = function

    def score(self, inputs: Sequence[RewardInput]) -> Scores:
        return self.function(inputs)


def build_providers(entries: Sequence[ProviderConfig]) -> dict[str, RewardProvider]:
    """The providers of `rl.rewards.providers`, by name."""
    providers: dict[str, RewardProvider] = {}
    for place, entry in enumerate(entries):
        if entry.name in providers:
            raise ValueError(f"rl.rewards.providers.{place}.name: {entry.name!r} is already in the list; give it once")
        providers[entry.name] = build_provider(entry, f"rl.rewards.providers.{place}")
    return providers


def build_provider(entry: ProviderConfig, where: str) -> RewardProvider:
    """One provider, in this process or in a worker; `where` is its config key, for messages."""
    if entry.worker is not None:
        from f5_tts.rewards.worker import build_worker

        return build_worker(entry, where)
    return local_provider(entry.name, entry.config, where)


def local_provider(name: str, config: Mapping[str, Any], where: str) -> RewardProvider:
    """A provider of this process: an object of the class that goes by this name, made with `config`; or the function
    of that name, which gets `config` with the clips.

    Raises ValueError when there is none, when it does not take `config`, or when it scores nothing.
    """
    made = find_provider(name, where)
    is_class = inspect.isclass(made)
    arguments = inspect.signature(made)
    try:
        arguments.bind(*([] if is_class else [[]]), **config)
    except TypeError as error:
        keys = list(arguments.parameters)[0 if is_class else 1 :]
        found = wrong_keys(config, keys, f"{where}.config") or f"{where}.config: {error}"
        raise ValueError(f"{found}; {name} takes {', '.join(keys) or 'no keys'}") from None
    try:
        return as_provider(made(**config) if is_class else partial(made, **config), name, where)
    except TypeError as error:
        raise ValueError(f"{where}.config={dict(config)}: {name} cannot be made of it: {error}") from error


def wrong_keys(config: Mapping[str, Any], keys: Sequence[str], where: str) -> str:
    """The keys of a config that are none of `keys`, each with the most similar of them; nothing where all are."""
    near = {key: difflib.get_close_matches(key, keys, n=1) for key in config if key not in keys}
    hints = (f"{where}.{key}" + (f" (did you mean {found[0]}?)" if found else "") for key, found in near.items())
    return f"unknown key {', '.join(hints)}" if near else ""


def find_provider(name: str, where: str) -> Callable[..., Any]:
    """The class or function behind a name of ours or "module:attribute"; ValueError with the reason where none is."""
    path = PROVIDERS.get(name, name)
    module, colon, attribute = path.partition(":")
    if not colon:
        raise ValueError(
            f"{where}.name: no reward provider is called {name!r}; there are {', '.join(PROVIDERS)}, "
            "and yours as module:attribute"
        )
    try:
        found = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, but something that it imports is not
        raise ValueError(f"{where}.name: there is no module {module} for {name}, seen from where you stand") from error
    if not callable(found):
        raise ValueError(f"{where}.name: module {module} has no class or function {attribute!r}")
    return found


def as_provider(made: Any, name: str, where: str) -> RewardProvider:
    """Anything with `score(inputs)`, or that can be called so, as a provider; `component` is "score" unless it says."""
    score: Any = getattr(made, "score", made if callable(made) else None)
    if score is None:
        raise ValueError(f"{where}.name: {name} cannot score: it needs a method score(inputs), or to be a function")
    return made if isinstance(made, RewardProvider) else Plain(score)


def score_words(providers: Mapping[str, RewardProvider], inputs: Sequence[RewardInput]) -> dict[str, Tensor]:
    """Scores word by word, of the providers that give them, by "<provider>.<component>"."""
    heard = {name: provider for name, provider in providers.items() if isinstance(provider, WordRewardProvider)}
    return {f"{name}.{provider.component}": provider.score_words(inputs) for name, provider in heard.items()}


def score_all(
    providers: Mapping[str, RewardProvider], inputs: Sequence[RewardInput], words: Mapping[str, Tensor]
) -> Scored:
    """Every provider's raw scores of all inputs; where `words` are known, made of them."""
    scored = Scored({}, {})
    for name, provider in providers.items():
        key = f"{name}.{provider.component}"
        if key in words:
            scored.parts[key] = checked(words[key].nanmean(dim=1).clamp(min=0), key, len(inputs))
            continue
        scores = provider.score(inputs)
        by_component = scores if isinstance(scores, Mapping) else {provider.component: scores}
        if provider.component not in by_component:
            raise ValueError(f"reward provider {name} gave {sorted(by_component)}, but not its {provider.component!r}")
        for component, values in by_component.items():
            kind = scored.parts if component == provider.component else scored.reported
            kind[f"{name}.{component}"] = checked(values, f"{name}.{component}", len(inputs))
    return scored


def as_tensor(numbers: Numbers) -> Tensor:
    """Numbers that came as a list, None being NaN, as a tensor."""
    if isinstance(numbers, Tensor):
        return numbers
    return torch.tensor([math.nan if value is None else float(value) for value in numbers])


def checked(score: Numbers, name: str, num: int) -> Tensor:
    """One number a clip, NaN (or None) where it does not apply; ValueError that names the provider and the clips."""
    score = as_tensor(score)
    if score.shape != (num,):
        raise ValueError(f"reward provider {name} gave scores of shape {tuple(score.shape)} for {num} clips")
    if score.isinf().any():
        clips = score.isinf().nonzero().flatten().tolist()
        raise ValueError(f"reward provider {name} gave clips {clips} of {num} an infinite score")
    return score.detach().float().cpu()


def component_weights(entries: Sequence[ProviderConfig], providers: Mapping[str, RewardProvider]) -> dict[str, float]:
    """The entries' weights under the names of `score_all`, as `combine` wants them."""
    return {f"{entry.name}.{providers[entry.name].component}": entry.weight for entry in entries}
