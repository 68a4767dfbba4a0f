from __future__ import annotations

from dataclasses import replace

import pytest

from f5_tts.eval.results import Result
from f5_tts.eval.statistics import Score
from f5_tts.report.table import Table, compare

HEARD = ("pocketsphinx", "whisper")


def score(name: str, edits: int, *, seen: bool = False) -> Score:
    rest = {"char_edits": 0, "chars": 16, "stutters": False, "leaks": False, "similarity": 0.75, "hypothesis": ""}
    return Score(id=name, seen=seen, edits=edits, words=4, opinions={"voice_sim": 0.5, "mos": 2.0}, **rest)


def result(edits: int) -> Result:
    """Make a result in which pocketsphinx hears this number of wrong words in each clip, and Whisper all four."""
    scores = {
        name: [score("a", wrong), score("b", wrong), score("c", 0, seen=True)]
        for name, wrong in zip(HEARD, (edits, 4), strict=True)
    }
    return Result(
        ckpt="a.pt",
        guidance=dict.fromkeys(HEARD, 0.5),
        dev_error_rates={},
        scores=scores,
        rtf=0.1,
        speaker_judge="ecapa_sim",
        rewards=["digits_ctc", "voice_sim"],
    )


def test_the_markdown_has_the_caption_and_aligned_columns():
    table = Table(
        caption="Held-out digit strings", header=["model", "guidance"], rows=[["base", "2"], ["stage 2", "0"]]
    )
    assert table.markdown() == (
        "Held-out digit strings:\n"
        "\n"
        "| model   | guidance |\n"
        "| ------- | -------- |\n"
        "| base    | 2        |\n"
        "| stage 2 | 0        |\n"
    )


def test_models_are_compared_on_voices_never_seen_by_every_recogniser_and_judge():
    table = compare({"base": result(2), "stage 2": result(1)}, "Models")
    assert dict(zip(table.header, table.rows[0], strict=True)) == {
        "model": "base",
        "guidance": "0.5",
        "error rate by Whisper tiny.en": "100.0 % (100.0 to 100.0)",
        "error rate by pocketsphinx": "50.0 % (50.0 to 50.0)",
        "similarity by ecapa_sim": "0.750 (0.750 to 0.750)",
        "similarity by voice_sim (reward)": "0.500 (0.500 to 0.500)",
        "MOS by DistillMOS": "2.000 (2.000 to 2.000)",
        "clips": "2",
    }
    assert table.rows[1][3] == "25.0 % (25.0 to 25.0)"


def test_a_similarity_by_the_reward_is_labelled_and_one_by_a_judge_of_ones_own_is_named_after_it():
    header = compare({"base": replace(result(2), speaker_judge="voice_sim")}, "Models").header
    assert header[4] == "similarity by voice_sim (reward)"
    assert "mine:Voices" in compare({"base": replace(result(2), speaker_judge="mine:Voices")}, "Models").header
    untrained = replace(result(2), speaker_judge="voice_sim", rewards=[])
    assert compare({"base": untrained}, "Models").header[4] == "similarity by voice_sim"
    both = {"base": untrained, "stage 2": replace(untrained, rewards=["voice_sim"])}
    assert compare(both, "Models").header[4] == header[4]


def test_a_recognizer_is_called_by_its_model_and_labelled_where_it_is_a_reward():
    whisper, other = result(2).scores["whisper"], result(1).scores["pocketsphinx"]
    heard = {"mine:Ears": other, "whisper": whisper, "pocketsphinx": other}
    trained = replace(
        result(2),
        scores=heard,
        guidance=dict.fromkeys(heard, 1.0),
        titles={"whisper": "Whisper small"},
        rewards=["digits_wer", "mine:Ears"],
    )
    assert list(compare({"base": trained}, "Models").header[2:5]) == [
        "error rate by Whisper small",
        "error rate by pocketsphinx (reward)",
        "error rate by mine:Ears (reward)",
    ]
    assert "(Whisper small, 2 clips" in trained.summary("whisper")
    assert "(pocketsphinx (reward), 2 clips" in trained.summary("pocketsphinx")


def test_models_that_were_measured_differently_are_refused():
    first = result(2)
    alone = replace(first, scores={"pocketsphinx": first.scores["pocketsphinx"]}, guidance={"pocketsphinx": 0.5})
    for other in (alone, replace(first, speaker_judge="voice_sim")):
        with pytest.raises(ValueError, match=r"'stage 2' was measured by .*: evaluate both alike"):
            compare({"base": first, "stage 2": other}, "Models")
    with pytest.raises(ValueError, match="at least one model, found none"):
        compare({}, "Models")


def test_clips_of_another_system_have_no_guidance():
    other = replace(result(1), ckpt="clips", guidance={}, rtf=None)
    table = compare({"base": result(2), "other": other}, "Models")
    assert table.caption == "Models"
    assert [row[1] for row in table.rows] == ["0.5", "-"]
