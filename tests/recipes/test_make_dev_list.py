from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from recipes.digits import make_dev_list
from recipes.digits.make_corpus import DEV_VOICES, SEED, TEST_VOICES, TRAIN_VOICES, text_lists
from recipes.digits.voices import FOREIGN, parameters


def test_the_list_has_four_dev_strings_in_each_of_sixteen_voices_far_from_every_test_voice():
    items = make_dev_list.dev_items()
    dev_texts = {text for texts in text_lists(SEED)["dev"].values() for text in texts}
    voices = {item.prompt.voice.name: item.prompt.voice for item in items}
    assert (len(items), len({item.id for item in items}), len(voices)) == (64, 64, 16)
    assert {text for item in items for text in (item.text, item.prompt.text)} <= dev_texts
    ranges = np.ptp(np.stack([parameters(voice) for voice in TRAIN_VOICES]), axis=0)
    kept = np.stack([parameters(voice) for voice in (*DEV_VOICES, *TEST_VOICES)])
    for voice in voices.values():
        assert (np.abs(kept - parameters(voice)) / ranges).max(axis=1).min() > FOREIGN


def test_the_written_list_names_prompts_that_exist_and_replaces_an_earlier_one(tmp_path, monkeypatch):
    items = make_dev_list.dev_items()[:2]
    monkeypatch.setattr(make_dev_list, "dev_items", lambda: items)
    monkeypatch.chdir(tmp_path)
    make_dev_list.make_list(make_dev_list.OUT)
    assert make_dev_list.main([])
    rows = [json.loads(line) for line in (make_dev_list.OUT / "dev.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [item.text for item in items]
    assert all(soundfile.info(row["prompt_audio"]).samplerate == 16_000 and not row["seen"] for row in rows)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mini_dev_custom"]


def test_a_data_set_of_that_name_is_kept(tmp_path):
    (tmp_path / "mini_dev_custom" / "raw").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="is no list of this command"):
        make_dev_list.make_list(tmp_path / "mini_dev_custom")
    assert (tmp_path / "mini_dev_custom" / "raw").is_dir()
