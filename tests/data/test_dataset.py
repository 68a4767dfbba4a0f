from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from math import pi
from pathlib import Path

import pytest
import soundfile
import torch
from datasets import Dataset as Table
from torch import Tensor

from f5_tts.data.audio import MissingAudio, Source
from f5_tts.data.dataset import AudioReader, SpeechDataset
from f5_tts.data.rows import Row, read_rows
from f5_tts.types import BadRow, Utterance

COLUMNS = {
    "audio_path": ["a.wav", "b.wav", "c.wav"],
    "text": ["one", "two", "three"],
    "duration": [1.0, 2.0, 3.0],
    "speaker": ["x", "y", "x"],
}


def write_layout(folder: Path, columns: dict[str, list], durations: object) -> Path:
    """Write a data set folder; `durations` is written unchanged if it is text, else as JSON."""
    Table.from_dict(columns).save_to_disk(str(folder / "raw"))
    text = durations if isinstance(durations, str) else json.dumps(durations)
    (folder / "duration.json").write_text(text)
    return folder


def read_nothing(source: Source) -> tuple[Tensor, Tensor]:
    return torch.zeros(4), torch.zeros(2, 1)


def item_of(dataset: SpeechDataset, *key: int) -> Utterance:
    item = dataset[(key[0], key[1], key[2])]
    assert isinstance(item, Utterance)
    return item


# --- rows ---


def test_rows_are_read_in_order_with_their_seconds_from_duration_json(tmp_path):
    rows = read_rows(write_layout(tmp_path, COLUMNS, {"duration": [1, 2.5, 3]}))
    assert [replace(row, columns={}) for row in rows] == [
        Row(audio_path="a.wav", text="one", duration=1.0, speaker="x"),
        Row(audio_path="b.wav", text="two", duration=2.5, speaker="y"),
        Row(audio_path="c.wav", text="three", duration=3.0, speaker="x"),
    ]


def test_a_row_keeps_every_column_for_the_rewards(tmp_path):
    rows = read_rows(write_layout(tmp_path, {**COLUMNS, "mood": ["glad", "sad", None]}, {"duration": [1, 2.5, 3]}))
    assert [row.columns["mood"] for row in rows] == ["glad", "sad", None]
    utterance = item_of(SpeechDataset(rows, read_nothing, pair_speakers=False, seed=0), 1, -1, 0)
    assert utterance.row["mood"] == "sad" and utterance.prompt_text == ""


def test_a_data_set_may_know_no_speakers(tmp_path):
    columns = {name: values for name, values in COLUMNS.items() if name != "speaker"}
    rows = read_rows(write_layout(tmp_path, columns, {"duration": [1, 2, 3]}))
    assert [row.speaker for row in rows] == [None] * 3


def test_a_missing_folder_is_named_with_what_belongs_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data set at .*gone_custom.*raw.*duration\.json.*datasets\.name"):
        read_rows(tmp_path / "gone_custom")


def test_a_missing_duration_json_is_named_with_what_it_must_hold(tmp_path):
    write_layout(tmp_path, COLUMNS, "").joinpath("duration.json").unlink()
    with pytest.raises(FileNotFoundError, match=r'no .*duration\.json: it must hold \{"duration": \['):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    "durations",
    ["", '{"duration": [1,', {"durations": [1, 2, 3]}, [1, 2, 3], {"duration": 3.5}, {"duration": ["one", 2, 3]}],
    ids=["no bytes", "cut short", "other key", "a list", "a number", "a word"],
)
def test_a_duration_json_that_is_something_else_is_named_with_what_it_must_hold(durations, tmp_path):
    write_layout(tmp_path, COLUMNS, durations)
    with pytest.raises(ValueError, match=r'duration\.json is not \{"duration": \[seconds of each row\]\}'):
        read_rows(tmp_path)


@pytest.mark.parametrize("seconds", ["0", "-1", "NaN", "Infinity"])
def test_a_duration_that_no_recording_has_is_named_with_its_row(seconds, tmp_path):
    write_layout(tmp_path, COLUMNS, f'{{"duration": [1, {seconds}, 3]}}')
    with pytest.raises(ValueError, match=r"duration\.json: row 1 lasts .* s; a duration is a number above 0"):
        read_rows(tmp_path)


def test_an_empty_duration_json_is_named(tmp_path):
    write_layout(tmp_path, COLUMNS, {"duration": []})
    with pytest.raises(ValueError, match=r"duration\.json lists no durations: the data set is empty"):
        read_rows(tmp_path)


def test_both_counts_are_named_where_rows_and_durations_differ(tmp_path):
    write_layout(tmp_path, COLUMNS, {"duration": [1, 2]})
    with pytest.raises(ValueError, match=r"raw/ holds 3 rows, duration\.json 2"):
        read_rows(tmp_path)


def test_missing_columns_are_named(tmp_path):
    write_layout(tmp_path, {"path": ["a.wav"], "duration": [1.0]}, {"duration": [1]})
    with pytest.raises(ValueError, match=r"raw has no column audio_path, text: it needs"):
        read_rows(tmp_path)


# --- utterances ---

SPEAKERS = ["x", "y", "x", "y", "x", "y", "y"]


def rows_of(speakers: list[str] | list[None]) -> list[Row]:
    """Make rows: row i of `speakers` lasts i + 1 seconds and has the text "text i"."""
    return [
        Row(audio_path=str(index), text=f"text {index}", duration=index + 1.0, speaker=who)
        for index, who in enumerate(speakers)
    ]


def read_number(source: Source) -> tuple[Tensor, Tensor]:
    """Return i + 1 frames of the value i for the source named i, ten samples per frame."""
    number = int(str(source))
    return torch.full((10 * (number + 1),), float(number)), torch.full((number + 1, 2), float(number))


def pairs_of(speakers: list[str], seed: int = 0) -> SpeechDataset:
    return SpeechDataset(rows_of(speakers), read_number, pair_speakers=True, seed=seed)


def test_without_pairs_an_item_is_its_row_and_nothing_of_it_is_prompt():
    dataset = SpeechDataset(rows_of(SPEAKERS), read_number, pair_speakers=False, seed=0)
    item = item_of(dataset, 3, -1, 42)
    assert item.text == item.target_text == "text 3"
    assert (item.prompt_frames, item.prompt_id) == (0, 42)
    assert torch.equal(item.mel, torch.full((4, 2), 3.0)) and torch.equal(item.audio, torch.full((40,), 3.0))
    assert dataset.durations(0) == [1, 2, 3, 4, 5, 6, 7]


def test_a_pair_is_the_prompts_sound_and_words_then_its_own():
    item = item_of(pairs_of(SPEAKERS), 4, 2, 42)
    assert (item.text, item.target_text) == ("text 2 text 4", "text 4")
    assert (item.prompt_frames, item.prompt_id) == (3, 42)
    assert item.mel[:, 0].tolist() == [2] * 3 + [4] * 5
    assert item.audio.tolist() == [2] * 30 + [4] * 50


def test_a_prompt_is_another_row_of_the_same_speaker():
    dataset = pairs_of(SPEAKERS)
    for epoch in range(20):
        for index, partner in enumerate(dataset.prompt_indices(epoch)):
            assert partner != index and SPEAKERS[partner] == SPEAKERS[index]


def test_every_other_row_of_the_speaker_is_as_likely_to_be_the_prompt():
    dataset = pairs_of(SPEAKERS)
    drawn = Counter(pair for epoch in range(900) for pair in enumerate(dataset.prompt_indices(epoch)))
    for index, who in enumerate(SPEAKERS):
        others = [other for other, name in enumerate(SPEAKERS) if name == who and other != index]
        assert all(abs(drawn[index, other] - 900 / len(others)) < 75 for other in others)  # five standard deviations


def test_the_same_seed_and_epoch_give_the_same_prompts_and_others_give_others():
    speakers = ["x"] * 50
    partners = pairs_of(speakers, seed=3).prompt_indices(5)
    assert partners == pairs_of(speakers, seed=3).prompt_indices(5)
    assert partners != pairs_of(speakers, seed=3).prompt_indices(6)
    assert partners != pairs_of(speakers, seed=4).prompt_indices(5)


def test_a_pair_lasts_as_long_as_both_its_rows():
    dataset = pairs_of(SPEAKERS)
    seconds = [index + 1 + partner + 1 for index, partner in enumerate(dataset.prompt_indices(2))]
    assert dataset.durations(2) == seconds


@pytest.mark.parametrize(
    "speakers, named",
    [
        (["x", "y", "x"], "y has one"),
        (["x", "y", "z", "z"], "x, y have one"),
        ([None, "x", None, "x"], "2 rows name no speaker"),
        ([None, "x"], "x has one and 1 rows name no speaker"),
    ],
)
def test_speakers_with_too_few_rows_for_a_pair_are_named_with_what_to_do(speakers, named):
    message = (
        rf"^datasets\.pair_speakers=true needs two rows of each speaker.*\), and {named}: remove these rows, or set"
    )
    with pytest.raises(ValueError, match=message):
        SpeechDataset(rows_of(speakers), read_number, pair_speakers=True, seed=0)


def test_a_file_is_read_at_the_models_rate_and_its_mel_is_made_from_that(tmp_path):
    def energies(audio: Tensor) -> Tensor:
        return audio.unfold(1, 100, 100).square().mean(dim=2, keepdim=True)

    soundfile.write(tmp_path / "a.wav", torch.sin(2 * pi * 300 / 8000 * torch.arange(1600)).numpy(), 8000)
    audio, mel = AudioReader(energies, 4000)(str(tmp_path / "a.wav"))
    assert audio.shape == (800,) and mel.shape == (8, 1)
    torch.testing.assert_close(mel[1:-1], torch.full((6, 1), 0.5), atol=0.02, rtol=0)


# --- unusable rows ---


def read_some(source: Source) -> tuple[Tensor, Tensor]:
    if str(source) == "2":
        raise MissingAudio("no audio file at 2")
    return read_number(source)


@pytest.mark.parametrize("key", [(2, -1, 7), (4, 2, 7)], ids=["the row", "its prompt"])
def test_a_row_that_cannot_be_read_is_given_as_such_with_its_reason_and_no_other_in_its_place(key):
    dataset = SpeechDataset(rows_of(SPEAKERS), read_some, pair_speakers=False, seed=0)
    assert dataset[key] == BadRow(index=2, path="2", kind="missing", reason="no audio file at 2")


def test_a_row_without_text_is_bad_too():
    rows = [Row(audio_path="0", text="", duration=1.0, speaker=None)]
    result = SpeechDataset(rows, read_number, pair_speakers=False, seed=0)[0, -1, 0]
    assert result == BadRow(index=0, path="0", kind="no text", reason="0 has no text")


def test_a_mistake_in_our_own_code_is_no_bad_row():
    def broken(source: Source) -> tuple[Tensor, Tensor]:
        raise ValueError("shapes do not fit")

    with pytest.raises(ValueError, match="shapes do not fit"):
        SpeechDataset(rows_of(SPEAKERS), broken, pair_speakers=False, seed=0)[0, -1, 0]


def test_where_texts_are_symbols_rewards_compare_with_the_raw_text(tmp_path):
    columns = {
        "audio_path": ["0", "1"],
        "text": [[" ", "ni3", " ", "hao3"], ["o", "k"]],
        "raw_text": ["你好", None],
        "speaker": ["x", "x"],
    }
    rows = read_rows(write_layout(tmp_path, columns, {"duration": [1, 2]}))
    item = item_of(SpeechDataset(rows, read_number, pair_speakers=True, seed=0), 1, 0, 0)
    assert (item.prompt_text, item.target_text) == ("你好", "ok")
    assert item.text == [" ", "ni3", " ", "hao3", " ", "o", "k"]


def test_a_raw_arrow_is_read_as_raw_is(tmp_path):
    folder = write_layout(tmp_path / "saved", COLUMNS, {"duration": [1, 2.5, 3]})
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(next((folder / "raw").glob("*.arrow")), other / "raw.arrow")
    shutil.copy(folder / "duration.json", other)
    assert read_rows(other) == read_rows(folder)
