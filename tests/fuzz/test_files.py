"""Damaged files of every format: the reader returns the right contents or raises an error that names the file."""

from __future__ import annotations

import os
import time

import pytest
from tests.fuzz.files import cases
from tests.fuzz.mutations import REFUSED, TRIED, Case, attempt, each_example, edits, flipped

EXAMPLES = 60  # examples of a format that is read fast
SOAK_S = float(os.environ.get("F5_TTS_SOAK_S", "600"))
NAMES = [
    *("checkpoint .pt", "checkpoint .safetensors, ours", "checkpoint .safetensors, published"),
    *("Vocos config.yaml", "Vocos pytorch_model.bin", "WeSpeaker config.yaml", "WeSpeaker avg_model.pt"),
    *("SenseVoice config.yaml", "SenseVoice model.pt"),
    *("data set duration.json", "data set data-00000-of-00001.arrow", "data set dataset_info.json"),
    *("data set state.json", "data set raw.arrow", "vocab.txt"),
    *("list csv", "list commas", "list ljspeech", "list jsonl", "list folder", "items .jsonl"),
    *("audio wav PCM_16", "audio wav FLOAT", "audio flac", "audio ogg", "audio mp3", "reference"),
    *("config YAML", "config TOML", "gen_file"),
    *("metrics.jsonl", "scores.json", "tracker_id", "prepare journal"),
    *("wire request", "wire scores", "wire description", "archive a.tar.gz", "archive a.zip"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return {case.name: case for case in cases(tmp_path_factory.mktemp("fuzz"))}


def test_every_format_is_tried(files: dict[str, Case]):
    assert sorted(files) == sorted(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file_is_read_and_a_damaged_one_read_right_or_refused_in_a_sentence(name: str, files: dict[str, Case]):
    case = files[name]
    contents = case.read()
    assert case.same(contents)
    each_example(case.check, edits(), EXAMPLES // case.cost)


@pytest.mark.slow
@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.soak)])  # 11 reaches every bit of a byte
@pytest.mark.parametrize("name", ["checkpoint .pt", "checkpoint .safetensors, ours"])
def test_weights_cut_short_or_with_a_bit_flipped_never_load_as_others(name: str, step: int, files: dict[str, Case]):
    case = files[name]
    whole = case.path.read_bytes()
    try:
        for size in range(0, len(whole), step):
            case.path.write_bytes(whole[:size])
            assert attempt(name, case.read, case.named) is None, f"loaded, cut at byte {size}"
        for bit in range(0, 8 * len(whole), step):
            case.path.write_bytes(flipped(whole, bit))
            contents = attempt(name, case.read, case.named)
            assert contents is None or case.same(contents), f"other contents, bit {bit} flipped"
    finally:
        case.path.write_bytes(whole)


@pytest.mark.soak
@pytest.mark.timeout(2 * SOAK_S + 600)
def test_soak(files: dict[str, Case], capsys):
    """Repeat for F5_TTS_SOAK_S seconds, with other inputs in each round."""
    TRIED.clear()
    REFUSED.clear()
    began, number = time.monotonic(), int(os.environ.get("F5_TTS_SOAK_SEED", "1"))
    while time.monotonic() - began < SOAK_S:
        for case in files.values():
            each_example(case.check, edits(), 200 // case.cost, number)
        number += 1
    assert sorted(TRIED) == sorted(NAMES) and any(REFUSED.values())
    with capsys.disabled():
        for name in NAMES:
            print(f"{name}: {TRIED[name]} inputs, {REFUSED[name]} refused")
        print(f"{sum(TRIED.values())} inputs of {len(NAMES)} formats in {time.monotonic() - began:.0f} s")
