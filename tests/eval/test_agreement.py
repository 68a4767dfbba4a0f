from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.eval.test_judges import FOX, Ears, Peak
from tests.tiny import MINI_MEL

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.eval.agreement import describe_agreement, disagreement, judge_recordings, recordings_of
from f5_tts.eval.evaluator import EvalSynthesizer
from f5_tts.eval.judges import Judges
from f5_tts.eval.results import Result
from f5_tts.eval.statistics import Score
from f5_tts.eval.test_set import EvalItem
from f5_tts.model.mel import LogMel
from f5_tts.report.table import compare
from f5_tts.types import RewardInput

WAV = "data/mini_custom/wavs/dev_00_dev_prompt_{}.flac"
ITEMS = [
    EvalItem(id=str(i), prompt_audio=WAV.format(i % 2), prompt_text=f"en {i % 2}", text="one two", language="en")
    for i in range(4)
]


def score(heard: str, *, seen: bool = False) -> Score:
    rest = {"edits": 0, "char_edits": 0, "chars": 1, "stutters": False, "leaks": False, "similarity": 0.5}
    return Score(id="a", seen=seen, words=2, hypothesis=heard, **rest)


def result(**floor: float) -> Result:
    scores = {
        "pocketsphinx": [score("one two"), score("one three"), score("four", seen=True)],
        "whisper": [score("one two"), score("one"), score("five five", seen=True)],
    }
    guidance = dict.fromkeys(scores, 1.0)
    return Result(ckpt="a", guidance=guidance, dev_error_rates={}, scores=scores, rtf=1.0, floors=floor)


def test_the_recordings_are_those_of_the_texts_or_else_the_prompts_each_once():
    assert [(item.prompt_audio, item.text) for item in recordings_of(ITEMS)] == [
        (WAV.format(0), "en 0"),
        (WAV.format(1), "en 1"),
    ]
    (target,) = recordings_of([FOX, replace(FOX, target_audio="b.wav")])
    assert (target.prompt_audio, target.text) == ("b.wav", FOX.text)
    assert recordings_of([replace(FOX, prompt_text=" ")]) == []


class Taste:
    """Judge that gives 3 and 4 points in turn."""

    component = "mos"

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [3.0 + index % 2 for index in range(len(inputs))]


def test_the_floor_is_the_error_rate_on_recordings():
    """Ears report the language of an item, "en": one of two words of both prompts."""
    settings = compose_config("F5TTS_Mini", [], TrainConfig).eval
    synthesizer = EvalSynthesizer(
        mel=LogMel(MINI_MEL), vocoder=lambda mels, lens: [], vocabulary=Vocabulary(" ab"), settings=settings
    )
    judges = Judges(recognizers={"ears": Ears()}, scorers={"voice": Peak(), "taste": Taste()})
    floors, values = judge_recordings(ITEMS, synthesizer, judges)
    assert floors == {"ears": 0.5}
    assert values["mos"] == 3.5 and values["pause"] >= 0 and not any(name.endswith("sim") for name in values)
    assert judge_recordings([replace(ITEMS[0], prompt_text="")], synthesizer, judges) == ({}, {})


def test_two_recognizers_disagree_by_the_edits_between_their_transcripts_per_word_of_the_text():
    scores = result().scores
    assert disagreement(scores["pocketsphinx"][:2], scores["whisper"][:2]) == 1 / 4
    assert describe_agreement(result()) == ["pocketsphinx and whisper disagree on 25.0% of the words"]
    assert describe_agreement(result(pocketsphinx=0.0, whisper=0.125))[1] == (
        "error rate on the recordings themselves: pocketsphinx 0.0%, whisper 12.5%; whisper heard them worst"
    )


def test_a_table_has_the_floors_as_its_last_row():
    table = compare({"base": result(pocketsphinx=0.0, whisper=0.125)}, "Models")
    assert list(table.rows[-1]) == ["recordings", "", "12.5 %", "0.0 %", "", ""]
    assert len(compare({"base": result()}, "Models").rows) == 1
