from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from f5_tts.eval.results import named_metrics
from f5_tts.eval.statistics import (
    Interval,
    Score,
    bootstrap_interval,
    error_rate,
    mean_similarity,
    paired_interval,
    similarities,
)


def score(name: object, edits: int, words: int = 4, similarity: float = 0.8, **more: Any) -> Score:
    rest = {"seen": False, "char_edits": 0, "chars": 4 * words, "stutters": False, "leaks": False, "hypothesis": ""}
    return Score(id=str(name), edits=edits, words=words, similarity=similarity, **(rest | more))


def scores(edits: list[int], words: int = 4) -> list[Score]:
    return [score(i, e, words) for i, e in enumerate(edits)]


def test_the_error_rate_is_all_edits_over_all_words_not_a_mean_of_rates():
    assert error_rate([score("short", 2, words=2), score("long", 0, words=6)]) == 2 / 8  # a mean of rates is 1 / 2
    assert error_rate([score("a", 5, words=2)]) == 2.5  # insertions count as errors


def test_similarity_is_a_mean_over_items():
    assert mean_similarity([score("a", 0, similarity=0.6), score("b", 0, words=1, similarity=0.9)]) == pytest.approx(
        0.75
    )


def test_equal_scores_give_an_interval_of_no_width():
    result = bootstrap_interval(scores([1] * 20))
    assert (result.value, result.low, result.high) == (0.25, 0.25, 0.25)
    voice = bootstrap_interval(scores([1] * 20), similarities)
    assert (voice.value, voice.low, voice.high) == pytest.approx((0.8, 0.8, 0.8), abs=1e-12)


def test_the_interval_is_as_wide_as_the_spread_of_a_mean():
    # Half of the items are wrong, half right: sd 0.5, so the mean of 400 has a standard error of 0.025.
    result = bootstrap_interval(scores([0, 4] * 200))
    assert result.value == 0.5
    assert result.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.004)
    assert result.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.004)


def test_the_interval_holds_the_true_rate_about_as_often_as_it_says():
    # 200 experiments of 60 items of 4 words, each word wrong with probability 0.3. If 95 % is right, the share of
    # intervals that hold 0.3 has a standard error of 1.5 %; allowed is 95 % less four of them, and more.
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(scores(rng.binomial(4, 0.3, 60).tolist()), resamples=300) for _ in range(200)]
    covered = np.mean([i.low <= 0.3 <= i.high for i in intervals])
    assert 0.89 <= covered < 1


def test_a_seed_gives_the_same_interval_again():
    some = [score(i, i, words=7 * i + 1) for i in range(40)]
    assert bootstrap_interval(some, seed=3) == bootstrap_interval(some, seed=3)
    assert bootstrap_interval(some, seed=3) != bootstrap_interval(some, seed=4)


def test_a_constant_shift_is_found_exactly_whatever_the_order_and_the_spread():
    before, after = scores([1, 2, 3, 4] * 5), scores([0, 1, 2, 3] * 5)[::-1]
    result = paired_interval([before], [after])
    assert (result.value, result.low, result.high) == pytest.approx((-0.25, -0.25, -0.25), abs=1e-12)


def test_halved_errors_are_a_relative_change_of_a_half():
    before, after = scores([2, 4, 6, 8] * 5), scores([1, 2, 3, 4] * 5)
    result = paired_interval([before], [after], relative=True)
    assert (result.value, result.low, result.high) == pytest.approx((-0.5, -0.5, -0.5), abs=1e-12)


def test_similarity_is_compared_item_by_item_too():
    before = [score(i, 0, similarity=0.1 * i) for i in range(8)]
    after = [score(i, 0, similarity=0.1 * i + 0.05) for i in range(8)]
    result = paired_interval([before], [after], similarities)
    assert (result.value, result.low, result.high) == pytest.approx((0.05, 0.05, 0.05), abs=1e-12)


def test_seeds_that_differ_widen_the_interval_to_their_own_range():
    # Every item is alike, so only seeds vary: of three with differences 0, -1/4, -1/2, all three draws are the first
    # (or the last) in one of 27 resamples, 3.7 %, more than the 2.5 % of a tail.
    before = scores([2] * 10)
    result = paired_interval([before], [scores([2] * 10), scores([1] * 10), scores([0] * 10)])
    assert (result.value, result.low, result.high) == pytest.approx((-0.25, -0.5, 0.0), abs=1e-12)


def test_seeds_that_agree_leave_the_interval_of_the_items():
    before, after = scores([0, 4] * 50), scores([0, 2] * 50)
    one, three = paired_interval([before], [after]), paired_interval([before], [after] * 3)
    assert three.value == one.value == -0.25
    assert (three.low, three.high) == pytest.approx((one.low, one.high), abs=0.01)


def test_a_comparison_of_other_items_names_them():
    with pytest.raises(ValueError, match=r"these differ: \['1', 'x'\]"):
        paired_interval([scores([1, 1])], [[score(0, 1), score("x", 1)]])
    with pytest.raises(ValueError, match=r"as often on both sides; these differ: \['0'\]"):
        paired_interval([scores([1])], [[score(0, 1), score(0, 2)]])


def test_takes_of_an_item_are_drawn_together():
    before, after = scores([0, 4] * 50), scores([0, 2] * 50)
    assert bootstrap_interval(before * 3) == bootstrap_interval(before)  # equal takes add no information
    assert paired_interval([before * 3], [after * 3]) == paired_interval([before], [after])
    takes = [score(0, 0), score(1, 4), score(0, 4), score(1, 0)]  # each item is right in one take, wrong in the other
    assert bootstrap_interval(takes) == Interval(0.5, 0.5, 0.5)


def test_the_rates_of_a_recogniser_and_the_similarity_come_with_half_their_intervals():
    """Use 400 clips, of which a quarter have repetitions: standard error √(3/16 / 400).

    There are no prompt leaks, and one character in eight is wrong.
    """
    transcripts = [score(i, 2, chars=16, char_edits=2, stutters=i % 4 == 0, similarity=0.7) for i in range(400)]
    result = named_metrics({"pocketsphinx": transcripts, "whisper": transcripts[:200]}, rtf=0.25)
    names = {"wer": 0.5, "cer": 0.125, "repeat_rate": 0.25, "leak_rate": 0.0}
    assert (
        {name: result[f"eval/{name}"] for name in names} == names == {name: result[f"judge/{name}"] for name in names}
    )
    assert result["eval/sim"] == pytest.approx(0.7) and result["eval/rtf"] == 0.25
    assert result["eval/repeat_rate_ci95"] == pytest.approx(1.96 * (3 / 16 / 400) ** 0.5, rel=0.05)
    assert result["eval/wer_ci95"] == result["judge/leak_rate_ci95"] == 0
    assert len(result) == 4 * 4 + 3


def test_a_measure_is_a_mean_over_the_clips_that_have_it_and_absent_where_none_has():
    clips = [score("a", 0, measures={"f0_spread": 2.0}), score("b", 0, measures={"f0_spread": 3.0}), score("c", 0)]
    result = named_metrics({"whisper": clips}, rtf=None)
    assert result["eval/f0_spread"] == 2.5 and "eval/clicks" not in result


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="at least one score, found none"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="at least one score, found none"):
        paired_interval([scores([1])], [])
    with pytest.raises(ValueError, match="item 'a' has 1 edits in 0 words"):
        score("a", 1, words=0)
    with pytest.raises(ValueError, match="item 'a' has 1 edits in 0 characters"):
        score("a", 1, char_edits=1, chars=0)
    with pytest.raises(ValueError, match="needs a value above 0 before"):
        paired_interval([scores([0, 0])], [scores([0, 1])], relative=True)


def test_a_clip_whose_similarity_does_not_apply_is_left_out_of_the_mean():
    clips = [score(name, 0, similarity=value) for name, value in (("a", 0.5), ("b", math.nan), ("c", 0.7))]
    assert mean_similarity(clips) == pytest.approx(0.6)
    assert bootstrap_interval(clips, similarities).value == pytest.approx(0.6)
    assert math.isnan(mean_similarity(clips[1:2])) and math.isnan(bootstrap_interval(clips[1:2], similarities).value)
