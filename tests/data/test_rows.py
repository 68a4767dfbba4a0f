"""Data sets with an audio column, as on the hub; the `datasets` library reads a local folder instead."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from datasets import Audio, DatasetDict
from datasets import Dataset as Table

from f5_tts.data.audio import MissingAudio, UnreadableAudio, load_audio
from f5_tts.data.rows import Row, read_data_set, read_rows, rows_of_table

RATE = 8_000


def tone(seconds: float) -> np.ndarray:
    return (0.3 * np.sin(0.5 * np.arange(round(RATE * seconds)))).astype("float32")


def encoded(seconds: float) -> dict[str, Any]:
    """Encode a FLAC file as a data set of the hub holds it."""
    stream = io.BytesIO()
    soundfile.write(stream, tone(seconds), RATE, format="FLAC", subtype="PCM_24")
    return {"bytes": stream.getvalue(), "path": "a.flac"}


def table_of(clips: list[dict[str, Any] | None], **columns: list[Any]) -> Table:
    table = Table.from_dict({"audio": clips, **columns})
    return table.cast_column("audio", Audio(decode=False))


def test_audio_stays_encoded_until_it_is_read_and_its_header_says_how_long_it_is():
    table = table_of([encoded(0.5), encoded(1.25)], text=["one", "two"], speaker=["x", None], mood=["glad", "sad"])
    rows = rows_of_table(table, "hf://a/b")
    assert [(row.text, row.duration, row.speaker) for row in rows] == [("one", 0.5, "x"), ("two", 1.25, None)]
    assert rows[1].columns == {"text": "two", "speaker": None, "mood": "sad"}
    wave = load_audio(rows[1].audio_path, RATE)
    np.testing.assert_allclose(wave.numpy(), tone(1.25), atol=2e-7)


def test_a_loading_process_can_be_sent_such_rows():
    rows = rows_of_table(table_of([encoded(0.5)], text=["one"]), "hf://a/b")
    (again,) = pickle.loads(pickle.dumps(rows))
    assert isinstance(again, Row) and len(load_audio(again.audio_path, RATE)) == RATE // 2


def test_a_column_of_durations_is_believed():
    table = table_of([encoded(0.5)], text=["one"], duration=[0.75])
    assert [row.duration for row in rows_of_table(table, "hf://a/b")] == [0.75]
    broken = table_of([encoded(0.5)], text=["one"], duration=[0.0])
    with pytest.raises(ValueError, match=r"datasets\.name=hf://a/b, column duration: row 0 lasts 0\.0 s"):
        rows_of_table(broken, "hf://a/b")


def test_a_file_that_the_data_set_names_is_read_and_what_is_no_audio_is_found_when_it_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.5), RATE)
    file = {"bytes": None, "path": str(tmp_path / "a.wav")}
    clips = [file, {"bytes": b"none", "path": None}, None, encoded(0.0)]
    rows = rows_of_table(table_of(clips, text=["a", "b", "c", "d"]), "hf://a/b")
    assert [row.duration for row in rows] == [0.5, 0.1, 0.1, 0.1]  # unreadable or empty clips get the minimum
    assert len(load_audio(rows[0].audio_path, RATE)) == RATE // 2
    with pytest.raises(UnreadableAudio, match="cannot read the audio of row 1 as audio"):
        load_audio(rows[1].audio_path, RATE)
    with pytest.raises(MissingAudio, match="the audio of row 2 is empty"):
        load_audio(rows[2].audio_path, RATE)


@pytest.mark.parametrize("columns", [["speaker"], ["speaker_id"], ["client_id"], ["spk"], ["spk", "speaker"]])
def test_the_speaker_has_one_of_its_usual_names(columns):
    table = table_of([encoded(0.5)], text=["a"], **{name: [f"the {name}"] for name in columns})
    assert [row.speaker for row in rows_of_table(table, "hf://a/b")] == [f"the {columns[-1]}"]


@pytest.mark.parametrize("columns, chosen", [(["sentence"], "sentence"), (["sentence", "text"], "text")])
def test_the_text_has_one_of_its_usual_names(columns, chosen):
    table = table_of([encoded(0.5)], **{name: [name] for name in columns})
    assert [row.text for row in rows_of_table(table, "hf://a/b")] == [chosen]


@pytest.mark.parametrize("columns", [["words"], ["sentence", "transcription"]], ids=["none", "two"])
def test_where_the_text_is_not_clear_the_columns_are_listed(columns):
    table = table_of([encoded(0.5)], **{name: [name] for name in columns})
    listed = ", ".join(f"'{name}'" for name in ["audio", *columns])
    with pytest.raises(ValueError, match=rf"needs one text column of text, sentence, transcription.*\[{listed}\]"):
        rows_of_table(table, "hf://a/b")


def test_a_data_set_without_audio_is_refused_with_its_columns():
    with pytest.raises(ValueError, match=r"needs one column of audio and has 0; columns: \{'text'"):
        rows_of_table(Table.from_dict({"text": ["a"]}), "hf://a/b")


def save(folder: Path, kind: str) -> str:
    """Save a data set of one row in this way, and return its name."""
    soundfile.write(folder / "0.flac", tone(0.5), RATE)
    raw = Table.from_dict({"audio": [encoded(0.5)], "text": ["one"]})
    tables = {
        "encoded": raw,
        "audio": raw.cast_column("audio", Audio()),
        "paths": Table.from_dict({"audio_path": [str(folder / "0.flac")], "text": ["one"]}),
        "dict": DatasetDict(train=raw, test=raw),
        "dict:test": DatasetDict(train=raw, test=raw),
    }
    tables[kind].save_to_disk(str(folder / "saved"))
    return f"hf://{folder / 'saved'}{kind.removeprefix('dict') if kind.startswith('dict') else ''}"


@pytest.mark.parametrize("kind", ["encoded", "audio", "paths", "dict", "dict:test"])
def test_what_save_to_disk_wrote_is_read_also_where_audio_is_not_marked_as_such(kind: str, tmp_path):
    (row,) = read_data_set(save(tmp_path, kind), tmp_path)
    assert (row.text, row.duration) == ("one", 0.5) and len(load_audio(row.audio_path, RATE)) == RATE // 2


def test_what_save_to_disk_wrote_where_raw_is_expected_is_said(tmp_path):
    save(tmp_path, "dict")
    (tmp_path / "duration.json").write_text('{"duration": [0.5]}')
    with pytest.raises(FileNotFoundError, match=r"saved was written by save_to_disk: move all of it into .*saved/raw"):
        read_rows(tmp_path / "saved")
    (tmp_path / "saved").rename(tmp_path / "raw")
    with pytest.raises(ValueError, match=r"raw holds the splits train, test, where one is needed: put the files of"):
        read_rows(tmp_path)
    with pytest.raises(ValueError, match=r"there is no split dev; choose by hf://.*raw:SPLIT of \['train', 'test'\]"):
        read_data_set(f"hf://{tmp_path / 'raw'}:dev", tmp_path)


PROGRAM = """
import sys
from pathlib import Path
from f5_tts.data.rows import read_data_set

for name in sys.argv[1:]:
    try:
        rows = read_data_set(name, Path())
        print(len(rows), rows[0].text, rows[0].duration)
    except (ValueError, OSError) as error:
        print(type(error).__name__, str(error).replace(chr(10), " "))
"""


CONFIGURATIONS = """---
configs:
- {config_name: en, data_files: "en/*.parquet"}
- {config_name: de, data_files: [{split: train, path: "de/train-*"}, {split: test, path: "de/test-*"}]}
---
"""


@pytest.mark.slow
def test_a_folder_stands_in_for_a_repository_and_split_and_configuration_may_be_named(tmp_path):
    repository, several = tmp_path / "repo", tmp_path / "several"
    for folder, words in (
        (repository / "data/train", ["one", "two"]),
        (repository / "data/validation", ["three"]),
        (several / "en/train", ["four"]),
        (several / "de/train", ["vier", "fünf"]),
        (several / "de/test", ["sechs"]),
    ):
        table = table_of([encoded(0.5)] * len(words), text=words).cast_column("audio", Audio())
        folder.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(str(folder.parent / f"{folder.name}-00000-of-00001.parquet"))
    (several / "README.md").write_text(CONFIGURATIONS, encoding="utf-8")
    listed = tmp_path / "listed"
    listed.mkdir()
    soundfile.write(listed / "0.flac", tone(0.5), RATE)
    (listed / "metadata.csv").write_text("file_name,transcription\n0.flac,seven\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    own = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    names = [f"hf://{repository}", f"hf://{repository}:validation", f"hf://{repository}:test", "hf://nobody/nothing"]
    names += [f"hf://{several}", f"hf://{several}:en/train", f"hf://{several}:de/test", f"hf://{several}:de/"]
    names.append(f"hf://{listed}")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), *names], env=os.environ | own, capture_output=True, text=True
    )
    train, validation, wrong, gone, unclear, *chosen = done.stdout.splitlines()
    assert (train, validation) == ("2 one 0.5", "1 three 0.5")
    assert wrong.startswith(f"ValueError datasets.name={names[2]}") and "validation" in wrong
    assert gone.startswith(
        "FileNotFoundError datasets.name=hf://nobody/nothing: nobody/nothing is not a folder on this machine"
    )
    assert unclear.startswith("ValueError") and "['en', 'de']" in unclear and ":CONFIGURATION/SPLIT)" in unclear
    assert chosen == ["1 four 0.5", "1 sechs 0.5", "2 vier 0.5", "1 seven 0.5"]
