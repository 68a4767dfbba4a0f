from __future__ import annotations

from collections import Counter

import pytest

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ConfigError, TrainConfig
from f5_tts.data.audio import EncodedAudio
from f5_tts.data.rows import Row
from f5_tts.train.held_out import items_of, split_rows


def config(*more: str) -> TrainConfig:
    settings = ["eval.every_updates=2", "eval.dev=held_out", "eval.dev_items=6", *more]
    return compose_config("F5TTS_Mini", settings, TrainConfig)


def rows(num: int, speakers: int = 0) -> list[Row]:
    return [
        Row(
            audio_path=f"{i}.wav",
            text=f"text {i}",
            duration=1.0 + i,
            speaker=str(i % speakers) if speakers else None,
            columns={"language": "de"},
        )
        for i in range(num)
    ]


def test_whole_speakers_are_held_out_where_they_are_known():
    table = rows(200, speakers=50)
    kept, held = split_rows(table, config())
    assert len(kept) + len(held) == 200 and len(held) == 8  # two speakers of four rows
    assert not {row.speaker for row in kept} & {row.speaker for row in held}
    assert split_rows(table, config()) == (kept, held) != split_rows(table, config("optim.seed=1"))


def test_single_rows_are_held_out_without_speakers():
    kept, held = split_rows(rows(200), config())
    assert (len(kept), len(held)) == (194, 6)


def test_a_run_trains_on_all_rows_unless_it_is_asked_to_hold_some_out():
    table = rows(200)
    for settings in (config("eval.every_updates=0"), config("eval.dev=null"), config("eval.dev=dev.jsonl")):
        assert split_rows(table, settings) == (table, [])
    assert split_rows(rows(8), config("eval.every_updates=0"))[1] == []


def test_nothing_is_held_out_of_a_small_data_set_or_of_one_with_a_single_speaker():
    with pytest.raises(ConfigError, match=r"no rows from a data set of fewer than 200, and this one has 199"):
        split_rows(rows(199), config())
    with pytest.raises(ConfigError, match=r"would take 200 of 200 rows, because whole speakers are held out"):
        split_rows(rows(200, speakers=1), config())


def test_held_out_rows_become_items_with_a_prompt_of_the_same_speaker_and_their_recording():
    items = items_of([*rows(6, speakers=2), Row(audio_path="lone.wav", text="a", duration=1.0, speaker="9")], 4)
    assert Counter(item.speaker for item in items) == {"0": 3, "1": 1}  # evenly spaced, 4 at most
    first = items[0]
    assert (first.text, first.target_audio, first.duration, first.language) == ("text 0", "0.wav", 1.0, "de")
    assert (first.prompt_audio, first.prompt_text, first.seen) == ("2.wav", "text 2", False)
    assert len({item.id for item in items}) == 4
    assert [
        item.text for item in items_of([*rows(2), Row(audio_path="3", text="…", duration=1.0, speaker=None)], 9)
    ] == [
        "text 0",
        "text 1",
    ]


def test_recordings_that_are_in_no_file_and_rows_without_a_pair_are_refused():
    inside = [Row(audio_path=EncodedAudio(b"", i), text="a", duration=1.0, speaker=None) for i in range(2)]
    for table in (inside, rows(1)):
        with pytest.raises(ConfigError, match=r"eval\.dev=held_out needs recordings in files, two of each speaker"):
            items_of(table, 4)
