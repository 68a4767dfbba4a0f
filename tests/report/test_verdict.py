from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.report.folders import TEXTS, score, updates, write_evaluation, write_metrics

from f5_tts.report.render import verdicts_of
from f5_tts.report.sources import find_sources
from f5_tts.report.verdict import Verdict

WRONG = {"a": "one two x x", "b": "five six x x", "c": "nine one x x"}  # half of the words


def verdict(folder: Path, judge: str | None = None) -> Verdict:
    (found,) = verdicts_of(find_sources([folder], before="base"), judge)
    return found


def test_fewer_errors_in_every_resample_are_better_and_a_voice_less_alike_is_worse(tmp_path: Path):
    write_evaluation(tmp_path / "base", WRONG)
    write_evaluation(tmp_path / "new", {name: f"{TEXTS[name]} x" for name in WRONG}, similarity=0.25)
    found = verdict(tmp_path)
    assert found.headline.text == "new: fewer word errors than base, -50 % (-50 to -50) by Whisper tiny.en"
    assert [finding.answer for finding in found.findings] == ["better", "worse", ""]
    assert "similarity -0.250 (-0.250 to -0.250) by voice_sim" in found.details[0].text
    assert "on 3 held-out items" in found.details[1].text


def test_more_errors_are_worse_and_where_the_old_rate_is_0_the_change_is_in_points(tmp_path: Path):
    write_evaluation(tmp_path / "base", TEXTS)
    write_evaluation(tmp_path / "new", WRONG)
    found = verdict(tmp_path).headline
    assert (found.text, found.answer) == (
        "new: more word errors than base, +50 points (+50 to +50) by Whisper tiny.en",
        "worse",
    )


def test_an_interval_that_holds_0_is_undecided(tmp_path: Path):
    write_evaluation(tmp_path / "base", WRONG)
    write_evaluation(tmp_path / "new", {**WRONG, "a": "one two three four", "b": "x x x x"})
    found = verdict(tmp_path).headline
    assert found.answer == "undecided" and found.text.startswith("new: no clear difference from base, +0 % (-")


def test_the_headline_is_by_the_judge_that_was_asked_for_else_by_one_that_was_no_reward(tmp_path: Path):
    by = {name: [score("a", TEXTS["a"], "one")] for name in ("funasr", "whisper")}
    write_evaluation(tmp_path / "base", {"a": "one"}, scores=by, guidance={})
    write_evaluation(tmp_path / "new", {"a": "one"}, scores=by, guidance={}, rewards=["funasr_wer"])
    assert verdict(tmp_path).headline.text.endswith("by Whisper tiny.en")
    assert verdict(tmp_path, judge="funasr").headline.text.endswith("by funasr (reward)")


@pytest.mark.parametrize(
    "other, reason",
    [
        ({"scores": {"funasr": [score("a", "one", "one")]}, "guidance": {}}, "no recogniser judged both"),
        ({}, "no item"),
    ],
)
def test_evaluations_that_cannot_be_compared_say_why(tmp_path: Path, other: dict[str, Any], reason: str):
    write_evaluation(tmp_path / "base", {"a": "one"})
    write_evaluation(tmp_path / "new", {"b": "five"}, **other)
    found = verdict(tmp_path)
    assert found.headline.text == "new: not compared" and reason in found.details[0].text


def test_a_run_without_evaluations_is_judged_by_its_validations_with_a_warning(tmp_path: Path):
    write_metrics(tmp_path / "run", updates(6))
    (found,) = verdicts_of(find_sources([tmp_path / "run"]), None)
    assert found.headline.text == "run: 20.0 % word errors at update 6, 50.0 % at update 0"
    assert found.headline.answer == "better"  # 30 points, more than sqrt(3² + 4²) = 5
    assert "-30.0 points (-35.0 to -25.0) of the error rate by pocketsphinx" in found.details[0].text


def test_a_voice_that_got_worse_in_the_validations_is_said(tmp_path: Path):
    rows = updates(6)
    for row, similarity in ((rows[0], 0.6), (rows[-1], 0.5)):
        row |= {"eval/sim": similarity, "eval/sim_ci95": 0.03}
    write_metrics(tmp_path / "run", rows)
    (found,) = verdicts_of(find_sources([tmp_path / "run"]), None)
    voice = found.details[1]  # 0.1 is more than sqrt(0.03² + 0.03²) = 0.042
    assert voice.answer == "worse" and "similarity -0.100 (-0.142 to -0.058)" in voice.text


def test_a_run_whose_best_weights_are_its_first_ones_says_so(tmp_path: Path):
    write_metrics(tmp_path / "run", updates(6))
    for name in ("before", "after"):
        write_evaluation(tmp_path / "run" / "eval" / name, WRONG, mark="same", rewards=["mos"] * (name == "after"))
    (found,) = verdicts_of(find_sources([tmp_path / "run"]), None)
    assert found.details[-1].text == "after has the same weights and results as before. "


def test_a_run_that_nobody_judged_says_what_to_do(tmp_path: Path):
    write_metrics(tmp_path / "run", [{"update": 1, "reward/mean": 1.0}])
    (found,) = verdicts_of(find_sources([tmp_path / "run"]), None)
    assert found.headline.text == "run: not evaluated"
    assert f"eval.out={tmp_path}/run/eval/before" in found.details[0].text
