"""Judges of an evaluation: recognizers, speaker encoder and other rewards that score clips and train nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config.reward_names import PROVIDERS, full_name, is_reward
from f5_tts.config.schema import EvalConfig
from f5_tts.eval.results import ASR_METRICS
from f5_tts.eval.test_set import EvalItem
from f5_tts.model.checkpoint import Checkpoint
from f5_tts.plugins import import_attribute
from f5_tts.rewards.asr.normal_form import check_libraries, normal_form, script_language
from f5_tts.rewards.measures import MEASURES
from f5_tts.rewards.registry import (
    build_provider,
    build_providers,
    check_words,
    provider_attribute,
    score_all,
    transcripts_by,
)
from f5_tts.types import RewardInput, RewardProvider

Normalize = Callable[[str, str], str]  # text and language -> its words, with single spaces
VOICE_JUDGE = "voice"
RESERVED = (*ASR_METRICS, *MEASURES, "sim", "sim_target", "rtf")  # names of metrics that no judge of one's own may have
SIMILARITY = f"{VOICE_JUDGE}.sim"
SIMILARITY_TO_TARGET = f"{VOICE_JUDGE}.sim_target"


@dataclass(frozen=True, kw_only=True)
class Judges:
    """All judges of an evaluation, and the normal form in which they compare texts."""

    recognizers: Mapping[str, RewardProvider]  # by name, as in eval.recognisers; each reports `heard`
    scorers: Mapping[str, RewardProvider]  # the speaker judge as VOICE_JUDGE, and those of eval.providers
    normalize: Normalize = normal_form

    def transcribe(self, name: str, inputs: Sequence[RewardInput]) -> list[str]:
        """Transcribe clips by one recognizer."""
        return transcripts_by(name, self.recognizers[name], inputs)

    def scores(self, inputs: Sequence[RewardInput]) -> list[dict[str, float]]:
        """Score each clip by the other judges; return one dict per clip, with keys "<judge>.<component>"."""
        components = score_all(self.scorers, inputs).components
        if any(item.target_audio is not None for item in inputs):
            components[SIMILARITY_TO_TARGET] = self.target_similarity(inputs)
        return [
            dict(zip(components, scores, strict=True))
            for scores in torch.stack(list(components.values()), dim=1).tolist()
        ]

    def target_similarity(self, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]:
        """Score the similarity of each clip to the recording of its text; NaN where there is none."""
        rows = [i for i, item in enumerate(inputs) if item.target_audio is not None]
        chosen = [replace(inputs[i], reference_audio=inputs[i].target_audio) for i in rows]
        scores = score_all({VOICE_JUDGE: self.scorers[VOICE_JUDGE]}, chosen).components[SIMILARITY]
        return torch.full((len(inputs),), math.nan).index_copy(0, torch.tensor(rows), scores)

    def titles(self) -> dict[str, str]:
        """Return the names of the recognizers in tables: the model's, where it is known."""
        return {name: getattr(provider, "title", "") or name for name, provider in self.recognizers.items()}


def build_judges(settings: EvalConfig) -> Judges:
    """Build the judges of an evaluation; raise ValueError for one that cannot be used."""
    recognizers = build_providers(settings.recognisers, "eval.recognisers")
    return Judges(recognizers=recognizers, scorers=build_scorers(settings), normalize=build_normalizer(settings))


def judge_libraries(settings: EvalConfig) -> Iterator[str]:
    """Yield the libraries that the judges import and only extras install."""
    for entry in [*settings.recognisers, settings.speaker, *settings.providers]:
        yield from () if entry.worker else provider_attribute(entry.name, "requires", ())


def build_scorers(settings: EvalConfig) -> dict[str, RewardProvider]:
    """Build the speaker judge and the providers of eval.providers.

    Raises ValueError if the speaker judge measures something else, or if two metrics would have the same name.
    """
    voice = build_provider(settings.speaker, "eval.speaker")
    if voice.component != "sim":
        raise ValueError(f"eval.speaker={settings.speaker.name} scores {voice.component}; a speaker judge scores sim")
    judges = build_providers(settings.providers, "eval.providers")
    names = [opinion_name(f"{name}.{judge.component}") for name, judge in judges.items()]
    duplicates = sorted({name for name in names if names.count(name) > 1 or name in RESERVED})
    if duplicates:
        raise ValueError(f"eval.providers: eval/{duplicates[0]} would have two meanings; rename one `component`")
    return {VOICE_JUDGE: voice, **judges}


def opinion_name(scored: str) -> str:
    """Return the name of a judge's score, given as "<judge>.<component>": the component.

    A built-in reward that measures `sim`, as the speaker judge does, is named itself: `voice_sim`.
    """
    judge, _, component = scored.rpartition(".")
    return full_name(judge) if component == "sim" and full_name(judge) in PROVIDERS else component


def build_normalizer(settings: EvalConfig) -> Normalize:
    """Return the function of eval.normaliser, else the built-in normal form of each language."""
    if settings.normaliser is None:
        return partial(normal_form, simplify=settings.simplify)
    own = import_attribute(settings.normaliser, "eval.normaliser")
    if not callable(own):
        raise ValueError(f"eval.normaliser={settings.normaliser} is no function of a text and its language")
    return cast(Normalize, own)


def rewards_of_run(checkpoint: Checkpoint) -> list[str]:
    """List the rewards that a checkpoint was trained by, from the settings that it records; plain weights have none."""
    settings = checkpoint.payload.get("settings", {})
    keys = [key for key in settings if re.fullmatch(r"rl\.rewards\.providers\.\d+\.name", key)]
    names = {key: settings[key] for key in keys if settings.get(f"{key.removesuffix('name')}weight", 1.0) != 0}
    return [full_name(str(name)) for name in names.values()]


# --- what must hold before anything is spoken ---


def item_language(item: EvalItem, settings: EvalConfig) -> str:
    """Return the language of an item: its own, else eval.language, else that of its script; empty if none is known."""
    return item.language or settings.language or script_language(item.text)


def check_judges(judges: Judges, items: Sequence[EvalItem], settings: EvalConfig) -> None:
    """Raise ValueError or ImportError if a recognizer cannot judge all items, or a text has no words to compare."""
    languages = [item_language(item, settings) for item in items]
    if settings.normaliser is None:
        for language in sorted(set(languages)):
            check_libraries(language, settings.simplify)
    check_words(judges.recognizers, [item.text for item in items], "eval.recognisers")
    for name, provider in judges.recognizers.items():
        check_languages(name, getattr(provider, "languages", None), items, languages)
    for item, language in zip(items, languages, strict=True):
        if not judges.normalize(item.text, language):
            raise ValueError(f"item {item.id}: no word is left of the text {item.text!r:.60} in its normal form")


def check_languages(
    name: str, known: Collection[str] | None, items: Sequence[EvalItem], languages: Sequence[str]
) -> None:
    """Raise ValueError if there are items in a language that a recognizer does not know; None: it knows all."""
    unknown = [
        (item, code) for item, code in zip(items, languages, strict=True) if known is not None and code not in known
    ]
    if not unknown:
        return
    item, code = unknown[0]
    is_about = f"is in the language {code}" if code else "names no language, and its script does not tell"
    raise ValueError(
        f"eval.recognisers: {name} knows {shortened(known or ())}, and item {item.id} ({item.text[:40]!r}) {is_about} "
        f"({len(unknown)} of {len(items)} items); set the items' language, or eval.language, or take another "
        "recogniser, e.g. eval.recognisers=[{name: whisper, config: {model: small}}]"
    )


def shortened(languages: Collection[str]) -> str:
    """List languages, of many the number."""
    return ", ".join(languages) if len(languages) <= 10 else f"{len(languages)} languages"


def describe_rewarded(names: Sequence[str], rewards: Sequence[str]) -> str | None:
    """Say before a run which recognizers are rewards of it, if all of them are; else return None."""
    if not all(is_reward(name, rewards) for name in names):
        return None
    return (
        f"eval.recognisers: {', '.join(names)} {'is a reward' if len(names) == 1 else 'are rewards'} of this run, so "
        "no judge chooses model_best.pt or sees that a reward is hacked; add one that is no reward, e.g. "
        f"eval.recognisers=[{names[0]},whisper]"
    )
