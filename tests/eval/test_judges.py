from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from f5_tts.config.load import compose_config
from f5_tts.config.schema import EvalConfig, ProviderConfig, TrainConfig
from f5_tts.eval.evaluator import score_clip
from f5_tts.eval.judges import SIMILARITY, Judges, build_judges, check_judges, item_language, rewards_of_run
from f5_tts.eval.test_set import EvalItem
from f5_tts.model.checkpoint import Checkpoint
from f5_tts.rewards.asr.normal_form import normal_form
from f5_tts.types import RewardInput

FOX = EvalItem(id="1", prompt_audio="a.wav", prompt_text="Hello.", text="The quick brown fox.")
GERMAN = replace(FOX, id="2", text="Guten Tag", language="de")
CHINESE = replace(FOX, id="3", text="今天天气很好。")
RUSSIAN = replace(FOX, id="4", text="Привет")
ONE = replace(FOX, id="5", text="One, two.")
VALUES = {SIMILARITY: 0.5}


class Ears:
    """Recognizer that reports what it was told to hear."""

    component = "acc"

    def __init__(self, languages: Sequence[str] | None = None, words: str | None = None) -> None:
        self.languages = languages
        self.known_words = None if words is None else frozenset(words.split())

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        return {"acc": [1.0] * len(inputs), "heard": [item.language for item in inputs]}


def settings(*overrides: str) -> EvalConfig:
    return compose_config("F5TTS_v1_Base", list(overrides), TrainConfig).eval


def check(ears: Ears, *items: EvalItem, by: EvalConfig | None = None) -> None:
    check_judges(Judges(recognizers={"ears": ears}, scorers={}), items, by or settings())


# --- what a recognizer knows ---


def test_the_language_is_the_items_or_that_of_the_config_or_of_the_script():
    assert [item_language(item, settings()) for item in (FOX, GERMAN, CHINESE, RUSSIAN)] == ["en", "de", "zh", ""]
    assert [item_language(item, settings("eval.language=fr")) for item in (FOX, GERMAN)] == ["fr", "de"]


@pytest.mark.parametrize(
    ("ears", "items", "message"),
    [
        (
            Ears(["en"]),
            [FOX, GERMAN],
            r"ears knows en, and item 2 \('Guten Tag'\) is in the language de \(1 of 2",
        ),
        (Ears(["en"]), [CHINESE, CHINESE], r"item 3 .* is in the language zh \(2 of 2 items\); set .* eval\.language"),
        (Ears(["en", "ru"]), [RUSSIAN], "item 4 .* names no language, and its script does not tell"),
        (
            Ears(words="one two"),
            [ONE, FOX],
            r"ears knows the words one, two alone, and 1 of 2 texts have others: 'The qu",
        ),
    ],
)
def test_a_recognizer_that_does_not_know_a_language_or_a_word_is_refused(ears, items, message):
    with pytest.raises(ValueError, match=message):
        check(ears, *items)


def test_a_recognizer_that_knows_them_or_says_nothing_is_taken():
    check(Ears(["en", "zh", "de"]), FOX, CHINESE, GERMAN)
    check(Ears(), FOX, RUSSIAN)
    check(Ears(words="one two"), ONE)
    check(Ears(["ru"]), RUSSIAN, by=settings("eval.language=ru"))


def test_pocketsphinx_and_whisper_of_the_mini_configs_refuse_other_texts_than_they_know():
    judges = build_judges(compose_config("F5TTS_Mini", ["eval.recognisers=[pocketsphinx]"], TrainConfig).eval)
    check_judges(judges, [ONE], settings())
    with pytest.raises(ValueError, match=r"eval\.recognisers: pocketsphinx knows the words eight, .*'The quick"):
        check_judges(judges, [FOX], settings())
    judges = build_judges(settings("eval.recognisers=[whisper]"))
    check_judges(judges, [FOX, ONE], settings())
    with pytest.raises(ValueError, match=r"eval\.recognisers: whisper knows en, and item 3"):
        check_judges(judges, [CHINESE], settings())


# --- entries ---


def test_an_entry_is_a_name_or_has_settings_of_its_own():
    chosen = settings("eval.recognisers=[whisper,{name: funasr, device: cuda, config: {model_id: m}}]").recognisers
    assert [(entry.name, entry.device, entry.config) for entry in chosen] == [
        ("whisper", None, {}),
        ("funasr", "cuda", {"model_id": "m"}),
    ]
    assert settings("eval.recognisers.0=funasr").recognisers[0] == ProviderConfig(name="funasr")
    assert settings("eval.recognisers.0.config.model=small").recognisers[0].config == {"model": "small"}


def test_the_speaker_judge_has_a_name_or_settings_and_an_older_key():
    assert settings("eval.speaker=wespeaker", "eval.speaker.config.model_dir=m").speaker == ProviderConfig(
        name="wespeaker", config={"model_dir": "m"}
    )
    changed = settings("eval.speaker.config.model_dir=m", "eval.speaker=ecapa")  # another model has other settings
    assert changed.speaker == ProviderConfig(name="ecapa")
    assert settings("eval.speaker_judge=ecapa_sim").speaker.name == "ecapa_sim"


def test_what_does_not_transcribe_is_no_recognizer():
    silent = build_judges(settings("eval.recognisers=[clipping]"))
    item = RewardInput(audio=torch.ones(16_000), sample_rate=16_000, text="one")
    with pytest.raises(ValueError, match=r"clipping does not transcribe: score.* of a recogniser returns 'heard'"):
        silent.transcribe("clipping", [item])


def test_a_normalizer_of_ones_own_takes_the_place_of_the_normal_form():
    own = build_judges(settings("eval.normaliser=recipes.digits.judges:digit_words", "eval.recognisers=[clipping]"))
    assert own.normalize("To wait for 2", "en") == "two wait four two"
    simplified = build_judges(settings("eval.simplify=true", "eval.recognisers=[clipping]"))
    assert simplified.normalize("漢語", "zh") == "汉语"


# --- scores ---


@pytest.mark.parametrize(
    ("text", "heard", "language", "words", "chars"),
    [
        ("I have 25 eggs, Mr. Fox!", "i have twenty five eggs mister fox", "en", (0, 7), (0, 28)),
        ("To wait for 2", "two wait four two", "en", (2, 4), (2, 12)),
        ("今天３点。", "今天三点", "zh", (0, 4), (0, 4)),
        ("今天三点", "今天四点", "zh", (1, 4), (1, 4)),
        ("Ich bin 25", "ich bin fünfundzwanzig", "de", (0, 3), (0, 20)),
    ],
)
def test_text_and_transcript_are_compared_in_their_normal_form(text, heard, language, words, chars):
    score = score_clip(replace(FOX, text=text), heard, VALUES, normal_form, language)
    assert ((score.edits, score.words), (score.char_edits, score.chars)) == (words, chars)
    assert score.heard == heard and score.hypothesis == normal_form(heard, language)
    assert score.text == normal_form(text, language)


class Peak:
    """Stand-in for speaker similarity: the ratio of the loudest samples."""

    component = "sim"

    def score(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        found = [(item.audio.max(), item.reference_audio) for item in inputs]
        return [None if other is None else float(peak / other.max()) for peak, other in found]


def test_similarity_is_measured_to_the_prompt_and_to_the_recording_of_the_text():
    judges = Judges(recognizers={}, scorers={"voice": Peak()})
    half, one = torch.full((4,), 0.5), torch.ones(4)
    plain = RewardInput(audio=half, sample_rate=16_000, text="a", reference_audio=half)
    assert judges.scores([plain]) == [{"voice.sim": 1.0}]
    both = judges.scores([plain, replace(plain, target_audio=one)])
    assert both[1] == {"voice.sim": 1.0, "voice.sim_target": 0.5} and math.isnan(both[0]["voice.sim_target"])
    score = score_clip(FOX, "", both[1], normal_form, "en")
    assert (score.similarity, score.opinions) == (1.0, {"sim_target": 0.5})


def test_a_checkpoint_says_which_rewards_it_was_trained_by():
    names = {f"rl.rewards.providers.{i}.name": name for i, name in enumerate(("voice_sim", "funasr", "clipping"))}
    payload = {"settings": {**names, "rl.rewards.providers.2.weight": 0.0, "rl.steps": 4}}
    assert rewards_of_run(Checkpoint(path=Path("a"), weights={}, payload=payload)) == ["voice_sim", "funasr_wer"]
    assert rewards_of_run(Checkpoint(path=Path("a"), weights={}, payload={})) == []
