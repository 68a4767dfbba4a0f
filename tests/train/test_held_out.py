from __future__ import annotations

from collections import Counter
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import soundfile
from tests.tiny import MINI_MEL

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ConfigError, TrainConfig
from f5_tts.data.audio import EncodedAudio
from f5_tts.data.rows import Row
from f5_tts.data.scan import scan_recording
from f5_tts.eval.evaluator import EvalAudio
from f5_tts.eval.test_set import EvalItem
from f5_tts.model.mel import LogMel
from f5_tts.train.held_out import describe_held_out, items_of, split_rows


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
    for settings in (
        config("eval.dev=null"),
        config("eval.dev=dev.jsonl"),
        config("eval.dev=null", "eval.dev_items=9"),
    ):
        assert split_rows(table, settings) == (table, [])
    assert split_rows(rows(8), config("eval.dev=null"))[1] == []
    assert len(split_rows(table, config("eval.every_updates=0"))[1]) == 6  # a resumed run that validates no more


def test_nothing_is_held_out_of_a_small_data_set():
    with pytest.raises(ConfigError, match=r"no rows are held out of a data set of fewer than 200, and .* has 199"):
        split_rows(rows(199), config())
    with pytest.raises(ConfigError, match=r"eval\.dev_items=101 is more than half of the 200 rows"):
        split_rows(rows(200), config("eval.dev_items=101"))


@pytest.mark.parametrize("speakers", [1, 2, 9])
def test_pairs_of_rows_are_held_out_where_whole_speakers_would_be_too_many_rows(speakers):
    """Of 200 rows, 20 may be held out, and of nine speakers each has 22 or 23."""
    kept, held = split_rows(rows(200, speakers=speakers), config())
    assert (len(kept), len(held)) == (194, 6)
    assert all(count % 2 == 0 for count in Counter(row.speaker for row in held).values())
    assert len(items(held, 6)) == 6  # each has a prompt of its speaker
    assert describe_held_out(kept, held).endswith("trained on too, since whole speakers would be too many rows")


def test_a_large_speaker_is_passed_over_while_small_ones_suffice():
    large = [replace(row, speaker="large") for row in rows(300)]
    for seed in range(5):
        kept, held = split_rows([*large, *rows(100, speakers=25)], config(f"optim.seed={seed}"))
        assert len(held) == 8 and "large" not in {row.speaker for row in held}
        assert describe_held_out(kept, held) == (
            "8 of 400 rows are held out for validations (eval.dev=held_out), all those of 2 speakers"
        )


def items(table: list[Row], num: int, max_seconds: float = 100, bad: tuple[str, ...] = ()) -> list[EvalItem]:
    return items_of(table, num, max_seconds, lambda row: row.audio_path not in bad)


def test_held_out_rows_become_items_with_a_prompt_of_the_same_speaker_and_their_recording():
    made = items([*rows(6, speakers=2), Row(audio_path="lone.wav", text="a", duration=1.0, speaker="9")], 4)
    assert Counter(item.speaker for item in made) == {"0": 3, "1": 1}  # evenly spaced, 4 at most
    first = made[0]
    assert (first.text, first.target_audio, first.duration, first.language) == ("text 0", "0.wav", 1.0, "de")
    assert (first.prompt_audio, first.prompt_text, first.seen) == ("2.wav", "text 2", False)
    assert len({item.id for item in made}) == 4
    wordless = Row(audio_path="3", text="…", duration=1.0, speaker=None)
    assert [item.text for item in items([*rows(2), wordless], 9)] == ["text 0", "text 1"]


def test_rows_that_cannot_be_used_are_neither_items_nor_prompts_and_long_items_come_last():
    """Pairs of rows last 3, 5, 7, 9 s, and the last one with the first one 6 s."""
    assert [item.text for item in items(rows(5), 3, bad=("1.wav",))] == ["text 2", "text 3", "text 4"]
    assert [item.text for item in items(rows(5), 3, max_seconds=6)] == ["text 0", "text 1", "text 4"]
    assert len(items(rows(5), 5, max_seconds=1)) == 5


def test_texts_of_pinyin_are_no_sentences_that_a_judge_can_compare():
    pinyin, letters, written = (
        [replace(row, text=text, columns=columns) for row in rows(2)]
        for text, columns in ((["ni3", "hao3"], {}), (list("one"), {}), (["ni3", "hao3"], {"raw_text": "你好"}))
    )
    assert [item.text for item in items([*pinyin, *letters, *written], 9)] == ["one"] * 2 + ["你好"] * 2
    with pytest.raises(ConfigError, match=r"texts of pinyin need the column raw_text"):
        items(pinyin, 9)


def test_without_speakers_nothing_is_compared_with_a_recording_that_may_have_another_voice():
    assert {item.target_audio for item in items(rows(4), 4)} == {""}


@pytest.mark.parametrize(("named", "code"), [("DE", "de"), ("zh-CN", ""), ("German", ""), (None, "")])
def test_a_language_that_is_no_code_is_left_to_the_script(named, code):
    table = [replace(row, columns={"language": named}) for row in rows(2)]
    assert {item.language for item in items(table, 2)} == {code}


def test_rows_without_a_pair_are_refused():
    with pytest.raises(
        ConfigError, match=r"eval\.dev=held_out needs two rows of a speaker that can be used, and has none"
    ):
        items(rows(1), 4)


def test_recordings_inside_the_table_are_read_from_there():
    """Read the item's prompt and recording as the data set reads its rows."""
    table = [{"audio": {"bytes": wav(0.1 * (i + 1)), "path": None}} for i in range(2)]
    inside = [Row(audio_path=EncodedAudio(table, i), text="a", duration=0.5, speaker="a") for i in range(2)]
    settings = config().eval
    reader = EvalAudio(mel=LogMel(MINI_MEL), settings=settings)
    first, second = items_of(inside, 2, 30.0, lambda row: scan_recording(row.audio_path, 30.0).seconds == 0.5)
    assert reader.prompt(first).mean() == pytest.approx(0.2, abs=1e-3)
    assert reader.prompt(second).mean() == pytest.approx(0.1, abs=1e-3)
    target = reader.target(first)
    assert target is not None and target.mean() == pytest.approx(0.1, abs=1e-3)


def wav(level: float) -> bytes:
    stream = BytesIO()
    soundfile.write(stream, np.full(8000, level), 16_000, format="WAV")
    return stream.getvalue()
