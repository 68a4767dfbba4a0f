"""Two evaluations of the same items: differences that follow from arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.eval.comparison import check_comparable, describe_change
from f5_tts.eval.results import Result
from f5_tts.eval.statistics import Score
from f5_tts.eval.test_set import EvalItem


def score(name: str, edits: int, similarity: float = 0.5) -> Score:
    return Score(
        id=name,
        seen=False,
        edits=edits,
        words=10,
        char_edits=2 * edits,
        chars=40,
        stutters=False,
        leaks=False,
        similarity=similarity,
        hypothesis="",
    )


def result(*scores: Score, title: str = "Whisper") -> Result:
    return Result(
        ckpt="old.pt",
        guidance={},
        dev_error_rates={},
        scores={"whisper": list(scores)},
        rtf=None,
        titles={"whisper": title},
    )


BEFORE = result(*(score(str(i), edits=i + 1) for i in range(5)), score("only before", 9))
AFTER = result(*(score(str(i), edits=i, similarity=0.75) for i in range(5)))


def test_one_edit_less_in_every_item_of_ten_words_is_ten_points_in_every_resample():
    assert describe_change(BEFORE, AFTER) == [
        "against old.pt, on the 5 items that both have (95 % intervals, paired by item):",
        "word error rate by Whisper: -10.0 points (-10.0 to -10.0)",
        "character error rate by Whisper: -5.0 points (-5.0 to -5.0)",
        "similarity by voice_sim: +0.250 (+0.250 to +0.250)",
    ]


def test_other_judges_and_measures_are_compared_where_both_have_them():
    """F0 spread is lower by 0.5 in every clip that has one; one side alone has opinions."""
    old = [replace(score(str(i), 1), measures={"f0_spread": 2.0 + i}, opinions={"mos": 3.0}) for i in range(3)]
    new = [replace(each, measures={"f0_spread": each.measures["f0_spread"] - 0.5}, opinions={}) for each in old]
    old[0], new[0] = (replace(side[0], measures={}) for side in (old, new))  # a clip without voiced frames
    lines = describe_change(result(*old), result(*new))
    assert lines[-1] == "f0_spread: -0.500 (-0.500 to -0.500)" and not any(line.startswith("mos") for line in lines)


def test_an_interval_with_zero_in_it_is_undecided_and_another_encoder_is_not_compared():
    mixed = result(score("0", 2), score("1", 1), score("2", 3))
    lines = describe_change(mixed, replace(BEFORE, speaker_judge="wespeaker"))
    assert lines[1].startswith("word error rate by Whisper: +0.0 points (") and lines[1].endswith(", undecided)")
    assert len(lines) == 3


def test_evaluations_that_cannot_be_compared_are_named():
    assert describe_change(BEFORE, result(score("0", 1), title="Whisper large"))[0].startswith(
        "nothing to compare with"
    )
    other = replace(score("0", 1), chars=39)
    with pytest.raises(ValueError, match=r"these items have other texts, .*: 0"):
        describe_change(BEFORE, result(other))
    said, misheard = replace(score("0", 1), text="one two"), replace(score("0", 1), text="two one")  # of equal length
    with pytest.raises(ValueError, match=r"these items have other texts, .*: 0"):
        describe_change(result(said), result(misheard))
    assert len(describe_change(result(said), result(score("0", 1)))) == 4  # earlier results have no texts


def test_other_items_and_other_texts_are_refused_before_anything_is_spoken():
    settings = compose_config("F5TTS_v1_Base", [], TrainConfig).eval
    item = EvalItem(id="0", prompt_audio="a.wav", prompt_text="one", text="One, two!")
    with pytest.raises(ValueError, match=r"eval\.against: the evaluation of old\.pt has none of the items"):
        check_comparable(BEFORE, [replace(item, id="elsewhere")], settings)
    before = result(replace(score("0", 1), text="one two"))
    check_comparable(before, [item], settings)
    check_comparable(BEFORE, [item], settings)  # earlier results have no texts
    with pytest.raises(ValueError, match="these items have other texts, or their texts another normal form: 0"):
        check_comparable(before, [replace(item, text="Two, one!")], settings)
