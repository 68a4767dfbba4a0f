from __future__ import annotations

import pytest

from f5_tts.eval.statistics import Interval, Score
from f5_tts.eval.table import ResultRow, result_rows, results_table

ROW = ResultRow(
    model="base",
    guidance=2.0,
    voices="unseen",
    error_rate=Interval(0.3125, 0.25, 0.375),
    similarity=Interval(0.7654, 0.75, 0.78),
    clips=160,
)


def test_the_table_says_who_measured_and_aligns_its_columns():
    assert results_table([ROW], "pocketsphinx", "voice_sim") == (
        "Held-out digit strings, measured by the reward's recogniser (pocketsphinx):\n"
        "\n"
        "| model | guidance | voices | error rate (95 %)     | similarity, by the reward voice_sim (95 %) | clips |\n"
        "| ----- | -------- | ------ | --------------------- | ------------------------------------------ | ----- |\n"
        "| base  | 2        | unseen | 31.2 % (25.0 to 37.5) | 0.765 (0.750 to 0.780)                     | 160   |\n"
    )


def test_a_similarity_by_a_judge_of_ones_own_is_named_after_it():
    assert "| similarity, by the judge ecapa_sim (95 %) |" in results_table([ROW], "whisper", "ecapa_sim")
    assert "| similarity, by mine:Voices (95 %) |" in results_table([ROW], "whisper", "mine:Voices")


def test_the_judge_is_named_as_one_that_was_never_a_reward():
    assert "measured by the judge (Whisper tiny.en), which was never a reward:" in results_table(
        [ROW], "whisper", "ecapa_sim"
    )
    with pytest.raises(ValueError, match="recogniser is 'google'; allowed: pocketsphinx, whisper"):
        results_table([ROW], "google", "voice_sim")


def test_voices_never_seen_come_first_and_are_kept_apart_from_seen_ones():
    rest = {"char_edits": 0, "chars": 16, "stutters": False, "leaks": False, "similarity": 0.9, "hypothesis": ""}
    some = [Score(id=str(i), seen=i < 2, edits=2 if i < 2 else 1, words=4, **rest) for i in range(5)]
    unseen, seen = result_rows("base", 1.5, some)
    assert (unseen.voices, unseen.clips, unseen.error_rate.value) == ("unseen", 3, 0.25)
    assert (seen.voices, seen.clips, seen.error_rate.value) == ("seen", 2, 0.5)
    assert [row.voices for row in result_rows("base", 0, some[:2])] == ["seen"]
