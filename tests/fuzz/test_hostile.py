"""Malicious files and texts: code is not run, paths are not followed, and sizes do not fill the memory."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from datasets import Audio
from datasets import Dataset as Table
from hypothesis import strategies as st
from tests.fuzz.files import ITEM, ROWS, WEIGHTS, vocos_config
from tests.fuzz.mutations import attempt, each_example
from tests.rewards.sensevoice import make_directory as make_sensevoice
from tests.rewards.wespeaker import make_directory as make_wespeaker
from tests.tiny import MINI_MEL

from f5_tts.config.schema import CkptsConfig
from f5_tts.data.audio import BadAudio, load_audio
from f5_tts.data.dataset import AudioReader, SpeechDataset
from f5_tts.data.formats import read_entries
from f5_tts.data.rows import read_rows, rows_of_table
from f5_tts.data.tokenizer import TOKENIZERS, Vocabulary
from f5_tts.eval.test_set import read_items
from f5_tts.infer.chunking import split_text
from f5_tts.infer.reference import read_reference
from f5_tts.infer.settings import output_path
from f5_tts.model.checkpoint import read_checkpoint, write_checkpoint
from f5_tts.model.vocoders.vocos import read_vocos
from f5_tts.rewards.asr.funasr_model import weight_shapes
from f5_tts.rewards.asr.sensevoice import SENSEVOICE, SenseVoice
from f5_tts.rewards.speaker.wespeaker_sim import read_resnet
from f5_tts.scripts.prepare import RowWorker, prepare
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.types import BadRow


class Code:
    """An object that runs a shell command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


# --- code ---


@pytest.mark.parametrize("place", ["checkpoint", "Vocos", "WeSpeaker", "SenseVoice"])
def test_code_in_weights_is_refused_and_has_not_run(place: str, tmp_path: Path):
    marker = tmp_path / "marker"
    hostile = {"model_state_dict": {**WEIGHTS, "evil": Code(marker)}, "update": 1}
    if place == "Vocos":
        (tmp_path / "config.yaml").write_text(
            yaml.safe_dump(vocos_config({"dim": 8, "intermediate_dim": 8, "num_layers": 1}))
        )
    if place == "WeSpeaker":
        make_wespeaker(tmp_path, m_channels=1, feat_dim=8, embed_dim=2)
    name, read = {
        "checkpoint": ("model_last.pt", lambda: read_checkpoint(tmp_path / "model_last.pt")),
        "Vocos": ("pytorch_model.bin", lambda: read_vocos(tmp_path, MINI_MEL)),
        "WeSpeaker": ("avg_model.pt", lambda: read_resnet(tmp_path)),
        "SenseVoice": ("model.pt", lambda: weight_shapes(tmp_path / "model.pt", SENSEVOICE)),
    }[place]
    torch.save(hostile, tmp_path / name)
    with pytest.raises(ValueError, match=name):
        read()
    assert not marker.exists()
    torch.load(tmp_path / name, weights_only=False)  # proves that the code works
    assert marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.yaml", "configuration.json"])
def test_code_beside_a_sensevoice_model_is_not_run(file: str, tmp_path: Path):
    folder, marker = make_sensevoice(tmp_path / "model"), tmp_path / "marker"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    orders = {"trust_remote_code": True, "remote_code": str(folder / "evil.py")}
    if file == "config.yaml":
        (folder / file).write_text(yaml.safe_dump(config | orders))
    else:  # values are paths of existing files, and any of them is valid
        told = json.loads((folder / file).read_text())
        told["file_path_metas"] |= {"trust_remote_code": "config.yaml", "remote_code": "evil.py"}
        (folder / file).write_text(json.dumps(told))
    SenseVoice(folder, "cpu", 1)
    assert not marker.exists()


def test_a_checkpoint_that_asks_for_memory_gets_none(tmp_path: Path):
    many, wide, path = bytearray(10), torch.zeros(1, dtype=torch.half).expand(10**5, 10**5), tmp_path / "a.pt"
    for content in ({"model_state_dict": WEIGHTS, "x": many}, {"model_state_dict": {"w": wide}}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"a\.pt"):
            read_checkpoint(path)


# --- checkpoints of this project ---


def test_a_damaged_checkpoint_says_from_which_the_run_goes_on(tmp_path: Path):
    for name in ("model_2.pt", "model_4.pt", "model_6.pt", "model_last.pt"):
        write_checkpoint(tmp_path / name, {"model_state_dict": WEIGHTS, "update": 2})
    folder = CheckpointDir(settings(tmp_path))
    for name in ("model_last.pt", "model_6.pt"):
        data = bytearray((tmp_path / name).read_bytes())
        data[data.index(struct.pack("<f", 7.0))] ^= 1  # flips a bit of a weight
        (tmp_path / name).write_bytes(data)
    advice = r"move model_last\.pt and model_6\.pt out of .*, and the same command resumes from model_4\.pt"
    with pytest.raises(ValueError, match=advice):
        folder.find_latest(pretrained=True)
    for name in ("model_last.pt", "model_6.pt"):
        (tmp_path / name).unlink()
    result = folder.find_latest(pretrained=True)
    assert result is not None and result.path.name == "model_4.pt"


def settings(folder: Path) -> CkptsConfig:
    from f5_tts.config.load import compose_config
    from f5_tts.config.schema import TrainConfig

    return compose_config("F5TTS_Mini", [f"ckpts.save_dir={folder}"], TrainConfig).ckpts


# --- audio ---


def wav(rate: int = 8000, channels: int = 1, claimed: int | None = None, data: bytes = b"\1\0" * 4000) -> bytes:
    size = len(data) if claimed is None else claimed
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 % 2**32, 2 * channels % 2**16, 16)
    return (
        b"RIFF"
        + struct.pack("<I", (36 + size) % 2**32)
        + b"WAVEfmt \x10\0\0\0"
        + form
        + b"data"
        + struct.pack("<I", size)
        + data
    )


AUDIO = {
    "no samples": wav(data=b""),
    "no bytes": b"",
    "rate 0": wav(rate=0),
    "rate 1": wav(rate=1),
    "rate 2^31 - 1": wav(rate=2**31 - 1),
    "rate 2^32 - 1": wav(rate=2**32 - 1),
    "no channels": wav(channels=0),
    "65535 channels": wav(channels=65535),
    "silence": wav(data=bytes(8000)),
}


@pytest.mark.parametrize("name", AUDIO)
def test_audio_of_hostile_shape_is_refused_with_a_sentence_and_counted_in_a_data_set(name: str, tmp_path: Path):
    path = tmp_path / "a.wav"
    path.write_bytes(AUDIO[name])
    with pytest.raises(BadAudio, match=r"a\.wav"):
        load_audio(path, 24_000)
    assert bad_row({"audio_path": [str(path)], "text": ["one"]}, tmp_path).path == str(path)


@pytest.mark.parametrize("claimed", [2**31, 2**32 - 1])
def test_a_header_that_claims_more_than_there_is_gives_what_there_is(claimed: int, tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(wav(claimed=claimed))
    assert len(load_audio(tmp_path / "a.wav", 8000)) == 4000


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_samples_that_are_no_sound_are_refused(value: float, tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.array([0.1] * 4000 + [value], np.float32), 8000, subtype="FLOAT")
    with pytest.raises(BadAudio, match=r"a\.wav holds"):
        read_reference(tmp_path / "a.wav", "one", 16_000)


@pytest.mark.parametrize("name", ["", "a\0b", "a" * 5000, "../" * 2000, "/dev/null", "/", "CON", "\u202egnp.wav"])
def test_a_row_may_name_anything_and_is_counted(name: str, tmp_path: Path):
    assert bad_row({"audio_path": [name], "text": ["one"]}, tmp_path).kind in ("missing", "unreadable")


def bad_row(columns: dict[str, list[Any]], folder: Path) -> BadRow:
    Table.from_dict(columns).save_to_disk(str(folder / "raw"))
    (folder / "duration.json").write_text('{"duration": [1.0]}')
    dataset = SpeechDataset(
        read_rows(folder), AudioReader(lambda wave: wave[..., None], 8000), pair_speakers=False, seed=0
    )
    result = dataset[(0, -1, 0)]
    assert isinstance(result, BadRow)
    return result


@pytest.mark.parametrize(
    "clip", [None, {"bytes": b"", "path": None}, {"bytes": wav(data=b""), "path": "a"}, {"bytes": None, "path": "a\0b"}]
)
def test_a_stored_clip_of_nothing_is_counted(clip: dict[str, Any] | None):
    table = Table.from_dict({"audio": [clip], "text": ["one"]}).cast_column("audio", Audio(decode=False))
    (row,) = rows_of_table(table, "hub")
    with pytest.raises(BadAudio):
        load_audio(row.audio_path, 8000)


@pytest.mark.parametrize("column, values", [("text", [3, 4]), ("audio_path", [3, 4]), ("text", [[1], [2]])])
def test_columns_of_another_kind_are_refused(column: str, values: list[Any], tmp_path: Path):
    Table.from_dict({**ROWS, column: values}).save_to_disk(str(tmp_path / "raw"))
    (tmp_path / "duration.json").write_text('{"duration": [1.0, 2.0]}')
    with pytest.raises(ValueError, match="text"):
        read_rows(tmp_path)


# --- file names ---


@pytest.mark.parametrize("name", ["../up", "/tmp/up", "a/b", "..", "", "a\0", "a\nb", "a" * 300])
def test_an_item_whose_id_is_no_file_name_is_refused(name: str, tmp_path: Path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({**ITEM, "id": name, "seen": True}))
    with pytest.raises(ValueError, match=r"test\.jsonl, line 1: 'id'"):
        read_items(path)


@pytest.mark.parametrize("name", ["../up.wav", "/tmp/../up.wav", "a/../../up.wav"])
def test_an_output_file_stays_in_its_folder(name: str, tmp_path: Path):
    with pytest.raises(ValueError, match="output_file"):
        output_path({"output_dir": str(tmp_path / "out"), "output_file": name})


def test_prepare_leaves_out_and_counts_what_is_hostile_and_writes_into_its_folder_alone(tmp_path: Path):
    (home := tmp_path / "home").mkdir()
    long = "b" * 250 + ".wav"
    for name in ("a.wav", long, os.fsdecode(b"\xff.wav")):
        (home / name).write_bytes(wav())
    rows = [
        *(
            {"audio": name, "text": "one"}
            for name in ("../home/a.wav", long, "a\0.wav", "c" * 5000, "/", "..", "\ud800")
        ),
        *({"audio": "a.wav", "text": text} for text in ("\ud800", "\x1b[31m \x07", "", "\u202eabc")),
        {"audio": "a.wav", "text": "one", "mood": "\udfff"},
        {"audio": "a.wav", "text": "one", "left_out": "kept"},
    ]
    deep = '{"audio": "a.wav", "text": "one", "x": ' + "[" * 400 + "]" * 400 + "}"
    (home / "list.jsonl").write_text("\n".join([*map(json.dumps, rows), deep, "[" * 10**5]))
    _, entries = read_entries(home / "list.jsonl")
    left_out = prepare(
        entries,
        tmp_path / "out",
        RowWorker(tokenizer="custom", copy_dir=tmp_path / "out" / "wavs", max_seconds=30.0),
        1,
    )
    assert len(read_rows(tmp_path / "out")) + len(left_out) == len(rows) + 2
    assert len(read_rows(tmp_path / "out")) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"home", "out"}
    assert len(list((tmp_path / "out" / "wavs").iterdir())) == 5
    _, result = read_entries(home, "folder")
    assert [entry.problem for entry in result].count("no text") == 2  # the third one is not valid Unicode


# --- texts ---


def texts() -> st.SearchStrategy[str]:
    some = st.sampled_from("中文了。，; ;\"'\u202e\x00\x1b行长0Aé가")
    return st.text(max_size=60) | st.text(some, max_size=60)


@pytest.mark.parametrize("tokenizer", ["char", "pinyin", "byte"])
def test_any_text_becomes_ids(tokenizer: str):
    vocabulary = Vocabulary([" ", "a", "中"], tokenizer)

    def check(text: str) -> None:
        symbols = attempt(f"text {tokenizer}", lambda: TOKENIZERS[tokenizer](text), "")
        if symbols is not None:
            assert vocabulary.encode([text]).shape == (1, len(symbols))
            assert "".join(split_text(" ".join(text.split()), 40)).replace(" ", "") == "".join(text.split())

    each_example(check, texts(), 150)


@pytest.mark.parametrize("sign", ["a", " ", "中", ".", "\x00", "\u202e", "é", "\U0001f600"])
@pytest.mark.timeout(60)
def test_a_million_of_one_sign_become_ids_in_seconds(sign: str):
    for tokenizer in ("char", "pinyin", "byte"):
        assert len(TOKENIZERS[tokenizer](sign * (10**4 if tokenizer == "pinyin" else 10**6))) >= 10**4
    assert split_text(sign * 10**6, 100)
