from __future__ import annotations

from typing import Any

from tests.report.folders import TEXTS, score

from f5_tts.eval.results import Result
from f5_tts.report.metrics_table import by_metric


def result(name: str, heard: str, **more: Any) -> Result:
    judged: dict[str, Any] = {"opinions": {"mos": 2.0}, "measures": {"pause": 0.5, "clicks": float("nan")}}
    scores = {name: [score("a", TEXTS["a"], heard, **judged)]}
    fields = {"ckpt": "a.pt", "guidance": {name: 2.0}, "dev_error_rates": {}, "rtf": None, **more}
    return Result(**{"scores": scores, **fields})


def rows(results: dict[str, Result]) -> dict[str, list[str]]:
    table = by_metric({title: [each] for title, each in results.items()})
    return {row[0]: list(row[1:]) for row in [table.header, *table.rows]}


def test_each_metric_is_a_row_and_what_a_judge_did_not_measure_is_a_dash():
    base = result("whisper", "one two x x", rewards=["mos"], speaker_judge="ecapa_sim")
    found = rows({"base": base, "new": result("funasr", "one", guidance={}, speaker_judge="voice_sim")})
    assert found == {
        "": ["base", "new"],
        "error rate by Whisper tiny.en": ["50.0 % (50.0 to 50.0)", "–"],
        "error rate by funasr": ["–", "75.0 % (75.0 to 75.0)"],
        "similarity by ecapa_sim": ["0.500 (0.500 to 0.500)", "–"],
        "similarity by voice_sim": ["–", "0.500 (0.500 to 0.500)"],
        "MOS by DistillMOS (reward)": ["2.000 (2.000 to 2.000)", "2.000 (2.000 to 2.000)"],
        "longest pause (s)": ["0.50 (0.50 to 0.50)", "0.50 (0.50 to 0.50)"],
        "guidance": ["2", "–"],
        "clips": ["1", "1"],
    }


def test_recordings_have_a_column_where_they_were_measured():
    found = rows({"base": result("whisper", "one", floors={"whisper": 0.01}, recordings={"pause": 0.125})})
    assert found[""] == ["base", "recordings"] and found["guidance"] == ["2", ""]
    assert found["error rate by Whisper tiny.en"][1] == "1.0 %"
    assert found["longest pause (s)"] == ["0.50 (0.50 to 0.50)", "0.12"]


def test_shares_of_recordings_are_written_like_those_of_clips():
    scores = {"whisper": [score("a", TEXTS["a"], "one", measures={"clipped": 0.001})]}
    found = rows({"base": result("whisper", "one", scores=scores, recordings={"clipped": 0.0})})
    assert found["clipped samples"] == ["0.10 % (0.10 % to 0.10 %)", "0.00 %"]
