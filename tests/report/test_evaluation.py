from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from f5_tts.eval.results import Result
from f5_tts.eval.statistics import Score
from f5_tts.report.evaluation import describe_errors, error_kinds, worst_first, write_page
from f5_tts.rewards.asr.error_rate import char_errors, word_errors


def score(name: str, text: str, heard: str, *, seen: bool = False) -> Score:
    (edits, words), (char_edits, chars) = word_errors(text, heard), char_errors(text, heard)
    counts = {"edits": edits, "words": words, "char_edits": char_edits, "chars": chars}
    rest = {"stutters": False, "leaks": False, "similarity": 0.5}
    return Score(id=name, seen=seen, text=text, hypothesis=heard, **counts, **rest)


GOOD = score("good", "one two three", "one two three")
EXTRA = score("extra", "one two three four", "one two two three four")  # one inserted
OTHER = score("other", "one two", "nine two")  # one substituted
SHORT = score("short", "今天好", "今")  # two of three characters deleted
SEEN = score("seen", "one", "", seen=True)


def result(*scores: Score, **more: object) -> Result:
    fields = {"ckpt": "a.pt", "guidance": {}, "dev_error_rates": {}, "rtf": 0.25, **more}
    return Result(scores={"pocketsphinx": list(scores), "whisper": [GOOD, OTHER]}, **fields)


def test_errors_are_counted_by_kind_per_word_of_the_texts():
    assert error_kinds([GOOD, EXTRA, OTHER, SHORT]) == {"substituted": 1 / 12, "deleted": 2 / 12, "inserted": 1 / 12}
    assert error_kinds([replace(GOOD, text="")]) == {}


def test_clips_with_errors_come_worst_first_and_those_without_not_at_all():
    assert [each.id for each in worst_first([EXTRA, GOOD, OTHER, SHORT])] == ["short", "other", "extra"]


def test_the_command_says_which_errors_there_are_and_where():
    assert describe_errors(result(GOOD, EXTRA, SHORT, SEEN)) == [
        "words by pocketsphinx: 0.0% substituted, 20.0% deleted, 10.0% inserted",
        "words by whisper: 20.0% substituted, 0.0% deleted, 0.0% inserted",
        "worst: short, 2 errors in 3 words: '今天好' was heard as '今'",
        "worst: extra, 1 error in 4 words: 'one two three four' was heard as 'one two two three four'",
        "real-time factor 0.250",
    ]


def test_kinds_of_texts_have_error_rates_of_their_own(tmp_path: Path):
    scores = [replace(GOOD, kind="short"), replace(EXTRA, kind="repeats"), replace(OTHER, kind="short"), SEEN]
    by_kind = result(*scores)
    assert describe_errors(by_kind)[2] == "error rate by kind of text (pocketsphinx): short 20.0%, repeats 25.0%"
    write_page(by_kind, tmp_path)
    lines = [" ".join(line.split()) for line in (tmp_path / "results.md").read_text("utf-8").splitlines()]
    assert "| repeats | 25.0 % (25.0 to 25.0) | 1 |" in lines


def test_the_page_has_metrics_kinds_and_the_worst_clips_of_a_judge_that_was_no_reward(tmp_path: Path):
    write_page(result(GOOD, EXTRA, rewards=["digits_wer"]), tmp_path)
    lines = [" ".join(line.split()) for line in (tmp_path / "results.md").read_text("utf-8").splitlines()]
    assert lines[0] == "# Evaluation of a.pt"
    assert "| eval/rtf | 0.25 | | |" in lines
    assert "| pocketsphinx (reward) | 0.0 % | 0.0 % | 14.3 % |" in lines
    assert lines[-1] == "| other | 1 | 2 | 0.500 | one two | nine two |"  # by whisper
