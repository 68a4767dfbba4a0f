"""Reward providers by the names that a config gives them; a provider's own libraries are imported when it is built."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from f5_tts.config.schema import ProviderConfig
from f5_tts.plugins import import_attribute, is_module_attribute
from f5_tts.types import Numbers, RewardInput, RewardProvider, Scored, Scores

PROVIDERS = {
    "digits_wer": "f5_tts.rewards.asr.digits_wer:DigitsWer",
    "voice_sim": "f5_tts.rewards.speaker.voice_sim:VoiceSim",
    "funasr_wer": "f5_tts.rewards.asr.funasr_wer:FunasrWer",
    "wespeaker_sim": "f5_tts.rewards.speaker.wespeaker_sim:WespeakerSim",
    "speech_rate": "f5_tts.rewards.guards:SpeechRate",
    "long_silence": "f5_tts.rewards.guards:LongSilence",
    "clipping": "f5_tts.rewards.guards:Clipping",
}


class Plain:
    """A provider made of whatever scores clips."""

    component = "score"

    def __init__(self, function: Callable[[Sequence[RewardInput]], Scores], knows_words: bool = False) -> None:
        self.function, self.knows_words = function, knows_words

    def score(self, inputs: Sequence[RewardInput]) -> Scores:
        return self.function(inputs)


def build_providers(
    entries: Sequence[ProviderConfig], where: str = "rl.rewards.providers"
) -> dict[str, RewardProvider]:
    """The providers of a list in the config, by name; `where` is its key."""
    providers: dict[str, RewardProvider] = {}
    for place, entry in enumerate(entries):
        if entry.name in providers:
            raise ValueError(f"{where}.{place}.name: {entry.name!r} is already in the list; give it once")
        providers[entry.name] = build_provider(entry, f"{where}.{place}")
    return providers


def build_provider(entry: ProviderConfig, where: str) -> RewardProvider:
    """One provider, in this process or in a worker; `where` is its config key, for messages."""
    if entry.worker is not None:
        from f5_tts.rewards.remote.client import build_worker

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
    if not is_module_attribute(path):
        raise ValueError(
            f"{where}.name: no reward provider is called {name!r}; there are {', '.join(PROVIDERS)}, "
            "and yours as module:attribute"
        )
    found = import_attribute(path, f"{where}.name")
    if not callable(found):
        module, _, attribute = path.partition(":")
        raise ValueError(f"{where}.name: module {module} has no class or function {attribute!r}")
    return found


def provider_attribute(name: str, attribute: str, default: Any) -> Any:
    """Return what the class of a provider says of itself, without building it; `default` where it says nothing.

    A provider whose module cannot be imported says nothing here: building it reports why.
    """
    try:
        return getattr(find_provider(name, name), attribute, default)
    except Exception:  # whatever the user's own code raises when it is imported
        return default


def as_provider(made: Any, name: str, where: str) -> RewardProvider:
    """Anything with `score(inputs)`, or that can be called so, as a provider; `component` is "score" unless it says."""
    score: Any = getattr(made, "score", made if callable(made) else None)
    if score is None:
        raise ValueError(f"{where}.name: {name} cannot score: it needs a method score(inputs), or to be a function")
    return made if isinstance(made, RewardProvider) else Plain(score, getattr(made, "knows_words", False))


def knows_words(provider: RewardProvider) -> bool:
    """Whether it can say which words of a clip earned its score."""
    return bool(getattr(provider, "knows_words", False))


def score_all(providers: Mapping[str, RewardProvider], inputs: Sequence[RewardInput]) -> Scored:
    """What every provider says of all inputs."""
    scored = Scored({}, {})
    for name, provider in providers.items():
        reward = f"{name}.{provider.component}"
        for component, values in scores_of(provider, name, inputs).items():
            key = f"{name}.{component}"
            if isinstance(values, list):
                scored.texts[key] = values
            elif values.ndim == 2:
                scored.words[reward] = values
            else:
                (scored.parts if key == reward else scored.reported)[key] = values
    return scored


def scores_of(provider: RewardProvider, name: str, inputs: Sequence[RewardInput]) -> dict[str, Tensor | list[str]]:
    """What a provider says of all inputs by component; of `words` b x w numbers, of the others b numbers or texts.

    ValueError that names the provider where that is not what it gave.
    """
    scores = provider.score(inputs)
    given = scores if isinstance(scores, Mapping) else {provider.component: scores}
    by_word = ["words"] if knows_words(provider) else []
    for needed in (provider.component, *by_word):
        if needed not in given:
            raise ValueError(f"reward provider {name} gave {sorted(given)}, but not its {needed!r}")
    found: dict[str, Tensor | list[str]] = {}
    for component, values in given.items():
        is_text = component != provider.component and has_texts(values)
        check = checked_words if component in by_word else checked_texts if is_text else checked
        found[component] = check(values, f"{name}.{component}", len(inputs))
    return found


def has_texts(values: Any) -> bool:
    may = isinstance(values, Iterable) and not isinstance(values, Tensor)
    return may and any(isinstance(value, str) for value in values)


def as_tensor(numbers: Numbers) -> Tensor:
    """Numbers that came as a list, None being NaN, as a tensor."""
    if isinstance(numbers, Tensor):
        return numbers
    return torch.tensor([math.nan if value is None else float(value) for value in numbers])


def checked(score: Any, name: str, num: int) -> Tensor:
    """One number a clip, NaN (or None) where it does not apply; ValueError that names the provider and the clips."""
    if has_texts(score):
        raise ValueError(f"reward provider {name} gave texts, but a reward is a number for each clip")
    try:
        score = as_tensor(score)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"reward provider {name} gave {score!r:.100} for {num} clips, not a number for each"
        ) from error
    if score.shape != (num,):
        raise ValueError(f"reward provider {name} gave scores of shape {tuple(score.shape)} for {num} clips")
    return finite(score, name)


def checked_words(words: Any, name: str, num: int) -> Tensor:
    """A row of numbers for each clip; ValueError likewise."""
    if not isinstance(words, Tensor) or words.ndim != 2 or len(words) != num:
        what = f"shape {tuple(words.shape)}" if isinstance(words, Tensor) else type(words).__name__
        raise ValueError(f"reward provider {name} gave {what} for {num} clips; words are a tensor, {num} x w")
    return finite(words, name)


def checked_texts(texts: Any, name: str, num: int) -> list[str]:
    """One text a clip; ValueError likewise."""
    if isinstance(texts, str) or len(texts) != num or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"reward provider {name} gave {texts!r:.100} for {num} clips; texts are a str for each")
    return list(texts)


def finite(scores: Tensor, name: str) -> Tensor:
    """The scores on the CPU, if none is infinite; they may be NaN."""
    if scores.isinf().any():
        clips = scores.isinf().view(len(scores), -1).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"reward provider {name} gave clips {clips} of {len(scores)} an infinite score")
    return scores.detach().float().cpu()


def component_weights(entries: Sequence[ProviderConfig], providers: Mapping[str, RewardProvider]) -> dict[str, float]:
    """The entries' weights under the names of `score_all`, as `combine` wants them."""
    return {f"{entry.name}.{providers[entry.name].component}": entry.weight for entry in entries}
