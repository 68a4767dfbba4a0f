from __future__ import annotations

from dataclasses import fields
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from f5_tts.rewards.remote.protocol import (
    JSON_FIELDS,
    LOCAL_FIELDS,
    TENSOR_FIELDS,
    decode_inputs,
    decode_scores,
    encode,
    encode_inputs,
    encode_scores,
    is_loopback,
)
from f5_tts.types import RewardInput

WAVE = torch.randn(7, generator=torch.Generator().manual_seed(0))
FULL = RewardInput(
    audio=WAVE[::2],
    sample_rate=24_000,
    text='数 "é"\n',
    language="zh",
    prompt_audio=torch.zeros(0),
    reference_audio=WAVE.double(),
    reference_text="said",
    target_audio=torch.tensor([nan, 1.0]),
    row={"speaker": "s1", "stars": 4.5, "missing": None, "path": Path("a/b"), "tags": ["x", {"y": 1}], "odd": nan},
)
BARE = RewardInput(audio=WAVE, sample_rate=16_000, text="")


def test_every_field_of_a_clip_that_is_scored_is_carried():
    assert {*JSON_FIELDS, *TENSOR_FIELDS.values(), *LOCAL_FIELDS} == {field.name for field in fields(RewardInput)}


def test_clips_arrive_as_they_were_sent_waveforms_in_float32_and_odd_values_of_a_row_as_text():
    call, (full, bare) = decode_inputs(encode_inputs([FULL, BARE], "call 1"))
    assert call == "call 1"
    assert (full.text, full.language, full.reference_text, full.sample_rate) == ('数 "é"\n', "zh", "said", 24_000)
    assert full.audio.equal(WAVE[::2]) and full.reference_audio is not None and full.reference_audio.equal(WAVE)
    assert full.prompt_audio is not None and full.prompt_audio.shape == (0,)
    assert full.target_audio is not None and full.target_audio[0].isnan() and full.target_audio[1] == 1.0
    row = dict(full.row)
    assert isnan(row.pop("odd"))
    assert row == {"speaker": "s1", "stars": 4.5, "missing": None, "path": "a/b", "tags": ["x", {"y": 1}]}
    assert (bare.prompt_audio, bare.reference_audio, bare.target_audio, bare.row) == (None, None, None, {})
    assert bare.audio.equal(WAVE) and bare.text == ""


def test_no_clips_are_no_clips():
    assert decode_inputs(encode_inputs([], "none")) == ("none", [])


def test_scores_arrive_with_their_components_in_order():
    sent = {f"c{10 - place}": torch.tensor([float(place), nan]) for place in range(11)}
    got = decode_scores(encode_scores(sent, "q"), "q")
    assert isinstance(got, dict) and list(got) == list(sent)
    torch.testing.assert_close(got, sent, equal_nan=True)


def test_texts_and_scores_of_words_stay_what_they_are_in_their_order():
    words, texts = torch.tensor([[1.0, nan], [0.5, 0.0]]), ['数 "é"\n', ""]
    got = decode_scores(encode_scores({"heard": texts, "words": words, "none": []}, "q"), "q")
    assert list(got) == ["heard", "words", "none"] and got["heard"] == texts and got["none"] == []
    torch.testing.assert_close(got["words"], words, equal_nan=True)


def test_an_answer_to_another_request_is_refused():
    with pytest.raises(ValueError, match="to another request"):
        decode_scores(encode_scores({"acc": torch.ones(1)}, "a"), "b")


@pytest.mark.parametrize(
    "components, count",
    [
        (None, 0),
        (None, 1),
        ("a", 1),
        (["a"], 1),
        ({}, 1),
        ({"acc": None}, 0),
        ({"a": None, "b": None}, 3),
        ({"heard": ["one"]}, 1),
        ({"heard": "one"}, 0),
        ({"heard": ["one"], "acc": None}, 1),
    ],
)
def test_an_answer_that_lacks_what_it_names_is_refused(components, count):
    values = {str(place): torch.ones(1) for place in range(count)}
    with pytest.raises(ValueError, match="do not match the components that it names"):
        decode_scores(encode({"call": "q", "components": components}, values), "q")


def about(text: bytes) -> bytes:
    return save({"about": np.frombuffer(text, np.uint8)})


GOOD = encode_inputs([BARE], "q")
PLAIN_VALUES = {"sample_rate": 1, "text": "", "language": "", "reference_text": "", "row": {}}


def one_input(audio: np.ndarray | None, **changes: object) -> bytes:
    """Encode a request with one valid input, except for these changes."""
    sent = encode({"call": "q", "inputs": [{**PLAIN_VALUES, **changes}]}, {})
    return sent if audio is None else save({**load(sent), "0.audio": audio})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"GET / HTTP/1.1",
        b"\xff" * 64,
        GOOD[:40],
        GOOD[:-1],
        save({"audio": np.zeros(3, np.float32)}),
        save({"about": np.zeros(3, np.float32)}),
        about(b"[]"),
        about(b"[" * 100_000),
        about(b"\xff"),
        about(b'{"inputs": []}'),
        about(b'{"call": 1, "inputs": []}'),
        about(b'{"call": "q", "inputs": {}}'),
        about(b'{"call": "q", "inputs": [1]}'),
        one_input(None),
        one_input(np.zeros((1, 3), np.float32)),
        one_input(np.zeros(3, np.float64)),
        one_input(np.zeros(3, np.float32), sample_rate="1"),
        one_input(np.zeros(3, np.float32), row=[]),
        one_input(np.zeros(3, np.float32), more=1),
    ],
    ids=range(20),
)
def test_bytes_that_are_no_request_are_a_value_error(body):
    with pytest.raises(ValueError, match=r"cannot be read|a request needs|input 0 needs"):
        decode_inputs(body)


def test_the_request_that_the_broken_ones_are_made_of_is_good():
    assert decode_inputs(one_input(np.zeros(3, np.float32)))[1][0].audio.shape == (3,)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_this_machine_goes_by_several_names(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "127.0.0.1.example.org"])
def test_other_names_are_other_machines(host):
    assert not is_loopback(host)
