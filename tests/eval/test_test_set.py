from __future__ import annotations

import json
from pathlib import Path

import pytest

from f5_tts.config.schema import ConfigError
from f5_tts.eval.test_set import EvalItem, items_folder, read_items

ROW = {
    "id": "a",
    "prompt_audio": "wavs/a.flac",
    "prompt_text": "one two",
    "text": "three four",
    "duration": 1.25,
    "speaker": "mara",
    "seen": False,
}


def write(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_items_come_back_in_the_order_of_the_list(tmp_path: Path):
    second = {**ROW, "id": "b", "seen": True, "duration": 2}
    items = read_items(write(tmp_path, ROW, second))
    assert [item.id for item in items] == ["a", "b"]
    assert items[0] == EvalItem(
        id="a",
        prompt_audio="wavs/a.flac",
        prompt_text="one two",
        text="three four",
        duration=1.25,
        speaker="mara",
        seen=False,
    )
    assert items[1].duration == 2.0


def test_an_item_needs_a_prompt_and_a_text_and_the_number_of_its_line_is_its_id(tmp_path: Path):
    least = {key: ROW[key] for key in ("prompt_audio", "prompt_text", "text")}
    (item,) = read_items(write(tmp_path, "", {**least, "language": "de", "target_audio": "b.wav", "duration": None}))
    assert (item.id, item.duration, item.speaker, item.seen) == ("2", None, "", False)
    assert (item.language, item.target_audio) == ("de", "b.wav")


@pytest.mark.parametrize(
    "row, complaint",
    [
        (
            {k: v for k, v in ROW.items() if k != "text"},
            r"line 2: keys missing \['text'\]; needed: prompt_audio, prompt_text, text; optional: id, duration,",
        ),
        ({**ROW, "lang": "en"}, r"line 2: keys unknown \['lang'\]; needed: prompt_audio, "),
        ({**ROW, "language": "English"}, "line 2: 'language' is 'English'; a code of two or three letters"),
        ({**ROW, "language": None}, "line 2: 'language' is None; a JSON string is needed"),
        ({**ROW, "duration": "1.25"}, "line 2: 'duration' is '1.25'; a JSON number is needed"),
        ({**ROW, "duration": True}, "line 2: 'duration' is True; a JSON number"),
        ({**ROW, "duration": 0}, "line 2: 'duration' is 0.0; it must be above 0"),
        ({**ROW, "duration": float("nan")}, "line 2: 'duration' is nan; it must be above 0"),
        ({**ROW, "seen": 1}, "line 2: 'seen' is 1; a JSON true or false"),
        ({**ROW, "text": "  "}, "line 2: 'text' is empty"),
        ({**ROW, "text": "…"}, "line 2: 'text' is empty or has no word: '…'; an error rate needs at least one"),
        ('{"id": "b",', "line 2: not JSON"),
        ("[1]", "line 2: a JSON object is needed, found list"),
    ],
)
def test_a_bad_line_is_named_with_its_file_number_and_key(tmp_path: Path, row: object, complaint: str):
    with pytest.raises(ValueError, match=r"test\.jsonl, " + complaint):
        read_items(write(tmp_path, {**ROW, "id": "z"}, row))


def test_two_items_of_one_id_are_refused_since_results_are_matched_by_id(tmp_path: Path):
    with pytest.raises(ValueError, match=r"'id' must be unique, found more than once: \['a'\]"):
        read_items(write(tmp_path, ROW, ROW))


def test_an_empty_list_and_a_missing_one_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"test\.jsonl holds no items"):
        read_items(write(tmp_path, ""))
    with pytest.raises(FileNotFoundError, match=r"no evaluation list at .*nowhere\.jsonl"):
        read_items(tmp_path / "nowhere.jsonl")


def test_without_a_folder_of_lists_nothing_says_what_to_speak():
    with pytest.raises(ConfigError, match=r"name a list, eval\.list=FILE .* or eval\.items_dir=FOLDER"):
        items_folder(None)
    assert items_folder("lists") == Path("lists")
