"""Registry of reward providers; a provider's own libraries are imported when it is built."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from traceback import extract_tb
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config.foreign import ABSENT_REWARD_KEYS
from f5_tts.config.reward_names import provider_path
from f5_tts.config.schema import ProviderConfig
from f5_tts.data.texts import normalize
from f5_tts.entrypoint import USER_ERRORS
from f5_tts.plugins import exit_is_error, import_attribute, same_working_dir
from f5_tts.rewards.remote.protocol import WorkerError
from f5_tts.rewards.types import build_fork_reward, is_fork_reward
from f5_tts.types import DifferentiableReward, Numbers, ProviderScores, RewardInput, RewardProvider, Scores

MAX_SHOWN = 3  # unknown words that are listed
HEARD = "heard"  # component with the transcripts of a reward that transcribes


class RewardError(ValueError):
    """Error of a provider's code, which the message names."""


class FunctionProvider:
    """Provider that wraps a function that scores clips."""

    component = "score"

    def __init__(self, function: Callable[[Sequence[RewardInput]], Scores], has_word_scores: bool = False) -> None:
        self.function, self.has_word_scores = function, has_word_scores

    def score(self, inputs: Sequence[RewardInput]) -> Scores:
        """Call the function."""
        return self.function(inputs)


def build_providers(
    entries: Sequence[ProviderConfig], config_key: str = "rl.rewards.providers"
) -> dict[str, RewardProvider]:
    """Build the providers of a config list, by name.

    The second argument is the config key of the list, for messages. Raises ValueError if a name is there twice.
    """
    providers: dict[str, RewardProvider] = {}
    for index, entry in enumerate(entries):
        if entry.name in providers:
            raise ValueError(f"{config_key}.{index}.name: {entry.name!r} is already in the list; give it once")
        providers[entry.name] = build_provider(entry, f"{config_key}.{index}")
    return providers


def build_provider(entry: ProviderConfig, config_key: str) -> RewardProvider:
    """Build one provider, in this process or in another; the second argument is its config key, for messages."""
    if entry.device is not None:
        entry = replace(entry, device=None, config={**entry.config, "device": entry.device})
    if entry.worker is not None:
        from f5_tts.rewards.remote.client import build_remote_provider

        return build_remote_provider(entry, config_key)
    return build_local_provider(entry.name, entry.config, config_key)


def build_local_provider(name: str, config: Mapping[str, Any], config_key: str) -> RewardProvider:
    """Build a provider in this process: an instance of the named class, or the named function.

    A class gets `config` as its arguments; a function gets `config` with the clips. Raises ValueError if there is no
    such provider, if it does not accept `config`, or if it cannot score.
    """
    target = find_provider(name, config_key)
    is_class = inspect.isclass(target)
    if is_fork_reward(target):
        with exit_is_error(f"{config_key}: reward provider {name}"):
            return build_fork_reward(target, config)
    signature = inspect.signature(target)
    try:
        signature.bind(*([] if is_class else [[]]), **config)
    except TypeError as error:
        keys = list(signature.parameters)[0 if is_class else 1 :]
        problem = wrong_keys(config, keys, f"{config_key}.config") or f"{config_key}.config: {error}"
        raise ValueError(f"{problem}; {name} takes {', '.join(keys) or 'no keys'}") from None
    try:
        with exit_is_error(f"{config_key}: reward provider {name}"), same_working_dir():
            return as_provider(target(**config) if is_class else partial(target, **config), name, config_key)
    except TypeError as error:
        raise ValueError(f"{config_key}.config={dict(config)}: {name} cannot be built from it: {error}") from error


def wrong_keys(config: Mapping[str, Any], keys: Sequence[str], config_key: str) -> str:
    """Name the unknown config keys, each with the most similar known one; return an empty string if all are known."""
    suggestions = {key: difflib.get_close_matches(key, keys, n=1) for key in config if key not in keys}
    hints = (
        f"{config_key}.{key}"
        + (f" ({ABSENT_REWARD_KEYS[key]})" if key in ABSENT_REWARD_KEYS else "")
        + (f" (did you mean {matches[0]}?)" if matches else "")
        for key, matches in suggestions.items()
    )
    return f"unknown key {', '.join(hints)}" if suggestions else ""


def find_provider(name: str, config_key: str) -> Callable[..., Any]:
    """Import the class or function of a built-in name or of module:attribute; raise ValueError if there is none."""
    path = provider_path(name, config_key)
    target = import_attribute(path, f"{config_key}.name")
    if not callable(target):
        module, _, attribute = path.partition(":")
        raise ValueError(f"{config_key}.name: module {module} has no class or function {attribute!r}")
    return target


def check_words(providers: Mapping[str, RewardProvider], texts: Sequence[str], config_key: str) -> None:
    """Raise ValueError if a provider that knows certain words alone gets other texts.

    The message names the provider, its words, the first such text and how many there are.
    """
    for name, provider in providers.items():
        known = getattr(provider, "known_words", None)
        unknown = [text for text in texts if known is not None and not known.issuperset(normalize(text).split())]
        if unknown:
            words = sorted(set(normalize(unknown[0]).split()) - set(known or ()))
            raise ValueError(
                f"{config_key}: {name} knows the words {', '.join(sorted(known or ()))} alone, and {len(unknown)} of "
                f"{len(texts)} texts have others: {unknown[0][:60]!r} has {', '.join(words[:MAX_SHOWN])}; take one "
                "that knows these texts, such as funasr_wer or whisper_wer"
            )


def provider_attribute(name: str, attribute: str, default: Any) -> Any:
    """Return what the class of a provider says of itself, without building it; `default` where it says nothing.

    A provider whose module cannot be imported says nothing here: building it reports why.
    """
    try:
        return getattr(find_provider(name, name), attribute, default)
    except Exception:  # whatever the user's own code raises when it is imported
        return default


def as_provider(target: Any, name: str, config_key: str) -> RewardProvider:
    """Make a provider of an object with `score(inputs)`, or of a callable; its `component` defaults to "score"."""
    score: Any = getattr(target, "score", target if callable(target) else None)
    if score is None:
        raise ValueError(
            f"{config_key}.name: {name} cannot score: it needs a method score(inputs), or to be a function"
        )
    return target if isinstance(target, RewardProvider) else FunctionProvider(score, has_word_scores(target))


def has_word_scores(provider: Any) -> bool:
    """Check whether a provider scores each word of a text."""
    old_name = getattr(provider, "knows_words", False)  # until the next release
    return bool(getattr(provider, "has_word_scores", old_name))


def needs_words(entries: Iterable[ProviderConfig]) -> bool:
    """Check whether a reward with a weight compares words, so that a text without any has no score."""
    attributes = ("needs_words", "has_word_scores", "knows_words")
    return any(provider_attribute(e.name, name, False) for e in entries if e.weight for name in attributes)


def score_all(providers: Mapping[str, RewardProvider], inputs: Sequence[RewardInput]) -> ProviderScores:
    """Score the inputs by every provider."""
    scores = ProviderScores({}, {})
    for name, provider in providers.items():
        reward = f"{name}.{provider.component}"
        for component, values in provider_scores(provider, name, inputs).items():
            key = f"{name}.{component}"
            if isinstance(values, list):
                scores.texts[key] = values
            elif values.ndim == 2:
                scores.word_scores[reward] = values
            else:
                (scores.components if key == reward else scores.diagnostics)[key] = values
    return scores


def provider_scores(
    provider: RewardProvider, name: str, inputs: Sequence[RewardInput]
) -> dict[str, Tensor | list[str]]:
    """Score the inputs by one provider and validate its output by component.

    Word scores have shape b x w. Other components are b numbers or b texts. Raises ValueError with the name of the
    provider if the output is invalid.
    """
    with name_in_errors(name):
        scores = provider.score(inputs)
    by_component = scores if isinstance(scores, Mapping) else {provider.component: scores}
    by_word = ["words"] if has_word_scores(provider) else []
    for required in (provider.component, *by_word):
        if required not in by_component:
            raise ValueError(f"reward provider {name} gave {sorted(by_component)}, but not its {required!r}")
    validated: dict[str, Tensor | list[str]] = {}
    for component, values in by_component.items():
        is_text = component != provider.component and has_texts(values)
        check = validate_word_scores if component in by_word else validate_texts if is_text else validate_scores
        validated[component] = check(values, f"{name}.{component}", len(inputs))
    return validated


@contextmanager
def name_in_errors(name: str) -> Iterator[None]:
    """Name the provider, and the line, in the errors of its code.

    Errors that are sentences already, and out of memory, stay what they are.
    """
    try:
        with exit_is_error(f"reward provider {name}"), same_working_dir():
            yield
    except (WorkerError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, USER_ERRORS) and name in str(error):
            raise
        place = extract_tb(error.__traceback__)[-1]
        raise RewardError(
            f"reward provider {name} raised {type(error).__name__}: {error} ({place.filename}, line {place.lineno}; "
            "F5_TTS_TRACE=1 shows the trace)"
        ) from error


def provider_loss(reward: DifferentiableReward, name: str, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]:
    """Compute the reward losses of the inputs, on the CPU, and validate them.

    Raises ValueError with the name of the reward unless it gives one number per clip, none infinite, with a gradient.
    """
    with name_in_errors(name):
        loss: Any = reward.loss(inputs)
    if not isinstance(loss, Tensor) or loss.shape != (len(inputs),):
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"reward provider {name}: loss gave {found} for {len(inputs)} clips, not a number for each")
    if loss.isinf().any():
        raise ValueError(f"reward provider {name}: loss is infinite for a clip")
    if not loss.requires_grad and not loss.isnan().all():
        raise ValueError(f"reward provider {name}: its loss has no gradient; does it use detach, numpy or no_grad?")
    return loss.float().cpu()


def transcripts_by(name: str, provider: RewardProvider, inputs: Sequence[RewardInput]) -> list[str]:
    """Transcribe the inputs by a provider that reports transcripts; raise ValueError if it reports none."""
    heard = provider_scores(provider, name, inputs).get(HEARD)
    if not isinstance(heard, list):
        raise ValueError(
            f"{name} does not transcribe: score(inputs) of a recogniser returns {HEARD!r}, a transcript for each clip"
        )
    return heard


def has_texts(values: Any) -> bool:
    """Check whether values are an iterable with a string in it."""
    is_iterable = isinstance(values, Iterable) and not isinstance(values, Tensor)
    return is_iterable and any(isinstance(value, str) for value in values)


def as_tensor(numbers: Numbers) -> Tensor:
    """Convert a list of numbers to a tensor, None to NaN."""
    if isinstance(numbers, Tensor):
        return numbers
    return torch.tensor([math.nan if value is None else float(value) for value in numbers])


def validate_scores(score: Any, name: str, num: int) -> Tensor:
    """Validate scores: one number per clip, NaN or None where the reward does not apply.

    Raises ValueError with the name of the provider and the number of clips.
    """
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
    return require_finite(score, name)


def validate_word_scores(words: Any, name: str, num: int) -> Tensor:
    """Validate word scores: one row of numbers per clip."""
    if not isinstance(words, Tensor) or words.ndim != 2 or len(words) != num:
        description = f"shape {tuple(words.shape)}" if isinstance(words, Tensor) else type(words).__name__
        raise ValueError(f"reward provider {name} gave {description} for {num} clips; words are a tensor, {num} x w")
    return require_finite(words, name)


def validate_texts(texts: Any, name: str, num: int) -> list[str]:
    """Validate texts: one string per clip."""
    if isinstance(texts, str) or len(texts) != num or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"reward provider {name} gave {texts!r:.100} for {num} clips; texts are a str for each")
    return list(texts)


def require_finite(scores: Tensor, name: str) -> Tensor:
    """Return the scores as float32 on the CPU; raise ValueError if one is infinite. NaN is allowed."""
    if scores.isinf().any():
        clips = scores.isinf().view(len(scores), -1).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"reward provider {name} gave clips {clips} of {len(scores)} an infinite score")
    return scores.detach().float().cpu()


def component_weights(entries: Sequence[ProviderConfig], providers: Mapping[str, RewardProvider]) -> dict[str, float]:
    """Return the weights of the entries by "<provider>.<component>"."""
    return {f"{entry.name}.{providers[entry.name].component}": entry.weight for entry in entries}
