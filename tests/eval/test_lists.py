"""Evaluation lists; the examples of docs/evaluation.md are read as they stand there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from f5_tts.eval.lists import read_list
from f5_tts.eval.test_set import EvalItem

EXAMPLE = re.compile(r"^```\w+ title=\"([^\"\n]+)\"\n(.*?)^```", re.MULTILINE | re.DOTALL)
RECORDINGS = ["prompt-wavs/anna-0001.wav", "prompt-wavs/anna-0002.wav", "wavs/anna-0001.wav", "wavs/anna-0002.wav"]
RECORDINGS += ["libri/7/11/7-11-0000.flac", "libri/7/11/7-11-0004.flac", "speaker/finnish/finnish_female/clip_1.wav"]


def record(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.ones(800), 8000)


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Return a folder with all lists of the page and the recordings that they name."""
    for name in RECORDINGS:
        record(tmp_path / name)
    for name, text in EXAMPLE.findall(Path("docs/evaluation.md").read_text("utf-8")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def item(folder: Path, **fields: str) -> EvalItem:
    """Return an item whose recordings are in a folder."""
    for key in ("prompt_audio", "target_audio"):
        if key in fields:
            fields[key] = str(folder / fields[key])
    return EvalItem(**fields)  # pyright: ignore[reportArgumentType]


def test_seed_tts_eval_names_the_recording_of_a_text_or_has_it_beside_the_list(examples: Path):
    first = {"prompt_text": "The boats came back before noon.", "text": "Nobody had asked for the second key."}
    second = {"prompt_text": "It rained until Friday.", "text": "We count the steps again."}
    assert read_list(examples / "meta.lst") == [
        item(examples, id=name, **texts, prompt_audio=f"prompt-wavs/{name}.wav", target_audio=f"wavs/{name}.wav")
        for name, texts in (("anna-0001", first), ("anna-0002", second))
    ]
    (examples / "wavs" / "anna-0001.wav").unlink()
    assert [each.target_audio != "" for each in read_list(examples / "meta.lst")] == [False, True]


def test_librispeech_pc_finds_speaker_and_chapter_in_the_folder_and_follows_the_rule_of_duration(examples: Path):
    assert read_list(examples / "cross_sentence.lst", examples / "libri") == [
        item(
            examples / "libri" / "7" / "11",
            id="7-11-0004",
            prompt_text="The boats came back before noon.",
            prompt_audio="7-11-0000.flac",
            text="Nobody had asked for the second key.",
            target_audio="7-11-0004.flac",
            speaker="7",
            language="en",
        )
    ]
    with pytest.raises(ValueError, match=r"cross_sentence\.lst is a LibriSpeech-PC list.*say eval\.recordings=FOLDER"):
        read_list(examples / "cross_sentence.lst")


def test_minimax_takes_the_recording_of_the_speaker_and_its_text(examples: Path):
    assert read_list(examples / "text" / "finnish.txt") == [
        item(
            examples,
            id="finnish_1",
            prompt_text="Veneet palasivat ennen puoltapäivää.",
            prompt_audio="speaker/finnish/finnish_female/clip_1.wav",
            text="Kukaan ei kysynyt toista avainta.",
            speaker="finnish_female",
            language="fi",
        )
    ]
    (examples / "text" / "finnish.txt").write_text("finnish_male|Yksi.\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"finnish\.txt, line 1: no recording for the speaker 'finnish_male'"):
        read_list(examples / "text" / "finnish.txt")


def test_jsonl_and_tables_name_the_fields_and_no_voice_counts_as_seen(examples: Path):
    named, spanish = read_list(examples / "own.jsonl")
    assert (named.id, named.prompt_audio) == ("1", str(examples / "prompt-wavs/anna-0001.wav"))
    assert (spanish.id, spanish.text, spanish.language) == ("b", "¿Quién?", "es")
    (row,) = read_list(examples / "own.csv")
    assert (row.id, row.text, row.duration) == ("a", "Well, who has the key?", None)
    shipped = read_list(Path("data/mini_custom/test.jsonl"))  # its paths begin in the current folder
    assert len(shipped) == 224 and not any(each.seen for each in shipped)


def test_a_folder_of_recordings_gives_each_text_the_previous_recording_of_its_speaker(tmp_path: Path, capsys):
    for name in ("ann/1", "ann/2", "ann/3", "bob/1"):
        record(tmp_path / f"{name}.wav")
        (tmp_path / f"{name}.txt").write_text(f"text {name[-1]}", encoding="utf-8")
    items = read_list(tmp_path)
    assert [(each.prompt_text, each.text, each.speaker) for each in items] == [
        ("text 3", "text 1", "ann"),
        ("text 1", "text 2", "ann"),
        ("text 2", "text 3", "ann"),
    ]
    assert [Path(str(each.target_audio)).name for each in items] == ["1.wav", "2.wav", "3.wav"]
    assert "1 of 4 recordings are left out" in capsys.readouterr().out


@pytest.mark.slow  # it imports datasets
def test_a_prepared_data_set_is_a_list(tmp_path: Path):
    items = read_list(Path("data/mini_custom"))
    assert len(items) == 240
    assert all(each.prompt_audio != each.target_audio and each.speaker for each in items)
    assert items[1].prompt_audio == items[0].target_audio


def test_without_speakers_nothing_is_compared_with_the_recording(tmp_path: Path):
    for name in ("a", "b"):
        record(tmp_path / f"{name}.wav")
        (tmp_path / f"{name}.txt").write_text(f"text {name}", encoding="utf-8")
    assert [(each.prompt_text, each.target_audio) for each in read_list(tmp_path)] == [("text b", ""), ("text a", "")]


def test_a_table_of_recordings_is_read_as_prepare_reads_it_each_text_after_another_recording(tmp_path: Path):
    for name in ("a", "b", "c"):
        record(tmp_path / "clips" / f"{name}.mp3")
    rows = ["client_id\tpath\tsentence\tup_votes", "x\ta.mp3\tEins.\t2", "y\tc.mp3\tDrei.\t0", "x\tb.mp3\tZwei.\t1"]
    (tmp_path / "validated.tsv").write_text("\n".join(rows), encoding="utf-8")
    found = read_list(tmp_path / "validated.tsv")
    assert [(each.prompt_text, each.text, each.speaker) for each in found] == [
        ("Zwei.", "Eins.", "x"),
        ("Eins.", "Zwei.", "x"),
    ]
    clips = str(tmp_path.resolve() / "clips")
    assert (found[0].prompt_audio, found[0].target_audio) == (f"{clips}/b.mp3", f"{clips}/a.mp3")
    lines = ['{"audio": "clips/a.mp3", "sentence": "Eins."}', '{"audio": "clips/b.mp3", "sentence": "Zwei."}']
    (tmp_path / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert [(each.prompt_text, each.text) for each in read_list(tmp_path / "list.jsonl")] == [
        ("Zwei.", "Eins."),
        ("Eins.", "Zwei."),
    ]


@pytest.mark.parametrize("name", ["own.csv", "own.jsonl"])
def test_a_list_with_prompts_may_have_the_names_of_lists_of_recordings(tmp_path: Path, name: str):
    record(tmp_path / "a.wav")
    values = {"prompt_audio": "a.wav", "prompt_text": "one", "Sentence": "two", "path": "a.wav", "client_id": "x"}
    values |= {"transcript": "which is not read"} if name == "own.csv" else {}
    if name == "own.jsonl":
        values["sentence"] = values.pop("Sentence")
    table = f"{','.join(values)}\n{','.join(values.values())}\n"
    (tmp_path / name).write_text(json.dumps(values) if name == "own.jsonl" else table, encoding="utf-8")
    assert read_list(tmp_path / name) == [
        item(
            tmp_path,
            id="1" if name == "own.jsonl" else "2",
            text="two",
            prompt_text="one",
            speaker="x",
            prompt_audio="a.wav",
            target_audio="a.wav",
        )
    ]


BAD_LINES = {
    "b|one|a.wav|two|three|four": "6 fields between pipes, where four or five are needed",
    "b|one|gone.wav|two": "no recording at .*gone.wav",
    "b| |a.wav|two": "'prompt_text' is empty",
    "b|one|a.wav|…": "'text' is empty or has no word",
    "../b|one|a.wav|two": "'id' is '../b'",
    "b|one|a.wav|two|gone.wav": "no recording at .*gone.wav",
}


def test_all_bad_lines_are_named_at_once_with_file_and_number(tmp_path: Path):
    record(tmp_path / "a.wav")
    lines = ["a|one|a.wav|two", "", *BAD_LINES]
    (tmp_path / "meta.lst").write_text("\n".join(lines), encoding="utf-8")
    complaints = [rf"meta\.lst, line {number}: {words}" for number, words in enumerate(BAD_LINES.values(), start=3)]
    with pytest.raises(ValueError, match=r"[^;]*; .*".join(complaints)):
        read_list(tmp_path / "meta.lst")
    (tmp_path / "meta.lst").write_text("\n".join(f"{i}|one|gone.wav|two" for i in range(12)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 10: no recording at .*; and 2 more"):
        read_list(tmp_path / "meta.lst")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.lst", "one two", r"a\.lst: the first line is 'one two', which is no line of Seed-TTS-eval"),
        ("a.csv", "prompt_audio,text\na.wav,one\n", r"a\.csv, line 1: keys missing \['prompt_text'\]"),
        ("a.csv", "prompt_audio,prompt_text,text\na.wav,one\n", r"a\.csv, line 2: 2 fields, where the header has 3"),
        ("a.csv", "prompt_audio,prompt_text,text\na.wav,one,\n", r"a\.csv, line 2: 'text' is empty"),
        (
            "a.csv",
            "prompt_audio,prompt_text,text,duration\na.wav,one,two,long\n",
            r"a\.csv, line 2: 'duration' is 'long'; a number of seconds",
        ),
        ("a.lst", "a|one|a.wav|two\na|one|a.wav|three\n", r"'id' must be unique, found more than once: \['a'\]"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, words: str):
    record(tmp_path / "a.wav")
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read_list(tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no file at .*gone\.lst"):
        read_list(tmp_path / "gone.lst")
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file at"):
        read_list(tmp_path)
