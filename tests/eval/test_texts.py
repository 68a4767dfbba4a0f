"""Texts alone, and the hard sets, in the voices of prompts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.data.tokenizer import read_vocabulary
from f5_tts.eval.test_set import EvalItem
from f5_tts.eval.texts import HARD_FOLDER, HARD_SETS, read_eval_list
from f5_tts.rewards.asr.normal_form import normal_form, script_language, words_of

KINDS = {"numbers", "repeats", "tongue twisters", "short", "long", "names", "code switching"}


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    """Return a folder with two recordings and their texts."""
    folder = tmp_path / "voices"
    folder.mkdir()
    for name in ("a", "b"):
        soundfile.write(folder / f"{name}.wav", np.ones(800), 8000)
        (folder / f"{name}.txt").write_text(f"I am {name}.", encoding="utf-8")
    return folder


def read(name: str | Path, *overrides: str) -> list[EvalItem]:
    return read_eval_list(str(name), compose_config("F5TTS_v1_Base", list(overrides), TrainConfig).eval)


@pytest.mark.parametrize("name", HARD_SETS)
def test_a_hard_set_has_a_hundred_different_texts_of_seven_kinds_in_its_language(name: str, voices: Path):
    items = read(name, f"eval.prompts={voices}")
    assert len({item.text for item in items}) == len({item.id for item in items}) == 100
    counts = Counter(item.kind for item in items)
    assert counts.keys() == KINDS and min(counts.values()) >= 13
    language = HARD_SETS[name]
    assert {item.language for item in items} == {language}
    assert all(script_language(item.text) == language for item in items)
    longest = {kind: max(spoken_words(item) for item in items if item.kind == kind) for kind in KINDS}
    assert longest["short"] <= 3 < longest["names"] and longest["long"] > 40
    known = read_vocabulary("data/Emilia_ZH_EN_pinyin/vocab.txt", "pinyin")  # of the published models
    assert set(known.unknown([item.text for item in items])) <= {"ge"}  # of 这个, as pypinyin reads it
    assert all(any(c.isdigit() for c in item.text) for item in items if item.kind == "numbers")


def spoken_words(item: EvalItem) -> int:
    return len(words_of(normal_form(item.text, item.language))) // (2 if item.language == "zh" else 1)


def test_texts_are_spoken_by_the_prompts_in_turn(tmp_path: Path, voices: Path):
    (tmp_path / "own.txt").write_text("One, two.\n\nThree; four.\nFive\n", encoding="utf-8")
    items = read(tmp_path / "own.txt", f"eval.prompts={voices}")
    assert [(item.id, item.text, item.prompt_text) for item in items] == [
        ("1", "One, two.", "I am a."),
        ("3", "Three; four.", "I am b."),
        ("4", "Five", "I am a."),
    ]
    assert Path(str(items[0].prompt_audio)).samefile(voices / "a.wav")


def test_a_table_or_jsonl_may_hold_texts_or_prompts_alone(tmp_path: Path, voices: Path):
    (tmp_path / "texts.jsonl").write_text('{"text": "¿Quién?", "language": "es", "kind": "short"}\n', encoding="utf-8")
    (tmp_path / "prompts.csv").write_text("prompt_audio,prompt_text\nvoices/b.wav,Soy b.\n", encoding="utf-8")
    (item,) = read(tmp_path / "texts.jsonl", f"eval.prompts={tmp_path / 'prompts.csv'}")
    assert (item.text, item.language, item.kind, item.prompt_text) == ("¿Quién?", "es", "short", "Soy b.")
    with pytest.raises(ValueError, match=r"texts\.jsonl, line 1: keys missing .*; or say eval\.prompts=LIST"):
        read(tmp_path / "texts.jsonl")
    (tmp_path / "prompts.csv").write_text("prompt_audio,prompt_text\nvoices/b.wav, \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"prompts\.csv needs recordings with their texts, found 1 without its words"):
        read("hard_en", f"eval.prompts={tmp_path / 'prompts.csv'}")


def test_texts_need_prompts_and_items_with_prompts_have_them(tmp_path: Path, voices: Path):
    with pytest.raises(ValueError, match=r"hard_zh holds texts alone, .* say eval\.prompts=LIST"):
        read("hard_zh")
    (tmp_path / "meta.lst").write_text("a|One.|voices/a.wav|Two.\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"meta\.lst has prompts of its own \(it is read as seed\): leave out"):
        read(tmp_path / "meta.lst", f"eval.prompts={voices}")
    (tmp_path / "own.csv").write_text("prompt_audio,text\nvoices/a.wav,Two.\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"own\.csv, line 2: the row has a prompt of its own"):
        read(tmp_path / "own.csv", f"eval.prompts={voices}")
    assert [item.text for item in read(tmp_path / "meta.lst")] == ["Two."]


def test_the_hard_sets_come_with_their_license():
    assert "CC0 1.0" in (HARD_FOLDER / "README.md").read_text("utf-8")
