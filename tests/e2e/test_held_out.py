"""Plain fine-tuning that holds rows out of its data set, validates on them and keeps its best weights, unasked."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset as Table
from tests.e2e.runs import REPOSITORY, assert_equal, interrupted_copy, read, rows, without_times

from f5_tts.train import train
from f5_tts.types import RewardInput

WER = "tests.e2e.test_held_out:Ears/wer"
TEXT = "one two six nine"
HEARD = ["one two", "one two six nine", "one two six", "one two", "one two six"]  # by validation, of one item
ERRORS, SIMILARITIES = [0.5, 0.0, 0.25, 0.5, 0.25], [0.5, 0.4, 0.49, 0.5, 0.5]
OPTIONS = [
    *["-cn", "F5TTS_Mini", f"model.tokenizer_path={REPOSITORY / 'data/mini_custom/vocab.txt'}"],
    *["datasets.pair_speakers=false", "datasets.batch_size_type=sample", "datasets.batch_size_per_gpu=50"],
    *[
        "eval.items_dir=null",
        "eval.every_updates=null",
        "eval.dev_items=1",
        "eval.dev_takes=1",
        "eval.steps=1",
        "infer.cfg_strength=0",
    ],
    *["eval.recognisers=['tests.e2e.test_held_out:Ears']", "eval.speaker=tests.e2e.test_held_out:Voice"],
]  # a validation is 2 clips of 2 rows, times 5 for the judges: 20 rows; an update 50 rows, times 3: 14 of them afford 5


class Scripted:
    """Judge that says what is written above, the same for raw and for averaged weights."""

    done, calls_per_validation = 0, 2  # validations before this run
    stops_at = -1  # number of the validation in which Ctrl-C is pressed

    def __init__(self) -> None:
        self.calls = 0

    def number(self) -> int:
        self.calls += 1
        if self.calls == self.stops_at * self.calls_per_validation + 1:
            signal.raise_signal(signal.SIGINT)
        return self.done + (self.calls - 1) // self.calls_per_validation


class Ears(Scripted):
    component = "acc"

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        return {"acc": [1.0] * len(inputs), "heard": [HEARD[self.number()]]}


class Voice(Scripted):
    component, calls_per_validation = "sim", 4  # to the prompt and to the recording

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [SIMILARITIES[self.number()]] * len(inputs)


def write_data_set(folder: Path, numbers: Sequence[int]) -> None:
    """Write recordings of noise, each from its own seed, two of each speaker."""
    folder.mkdir(parents=True)
    paths = [str(folder / f"{number}.wav") for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        soundfile.write(path, np.random.default_rng(number).normal(scale=0.1, size=4800), 16_000)
    speakers = [f"speaker {number // 2}" for number in numbers]
    table = {"audio_path": paths, "text": [TEXT] * len(paths), "speaker": speakers}
    Table.from_dict(table).save_to_disk(str(folder / "raw"))
    (folder / "duration.json").write_text(json.dumps({"duration": [0.3] * len(paths)}))


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny) -> Callable[..., Path]:
    """Return a function that trains in a folder, by default all rows of a data set of 200 rows."""
    place = tmp_path_factory.mktemp("held_out")

    def train_in(name: str, *more: str, ends: bool = True) -> Path:
        length = ["optim.max_updates=14", "ckpts.save_per_updates=3"]
        options = [*OPTIONS, *tiny, "datasets.name=all", *length, *more, f"ckpts.save_dir={place / name}"]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            assert train.main(options) is ends
        return place / name

    write_data_set(place / "data" / "all_custom", range(200))
    return train_in


@pytest.fixture(scope="module")
def validated(run) -> Path:
    return run("validated")


def test_its_best_weights_have_the_lowest_error_rate_of_those_that_keep_the_voice_and_of_equals_the_oldest(validated):
    measured = {row["update"]: (row[WER], row["eval/sim"]) for row in rows(validated) if WER in row}
    assert list(measured) == [0, 3, 6, 9, 12]
    assert [pair[0] for pair in measured.values()] == ERRORS
    assert [pair[1] for pair in measured.values()] == pytest.approx(SIMILARITIES)
    assert read(validated / "model_best.pt")["update"] == 6
    best, sixth = (read(validated / f"model_{name}.pt")["model_state_dict"] for name in ("best", "6"))
    assert all(torch.equal(value, sixth[name]) for name, value in best.items())


def test_rows_that_are_held_out_are_never_trained_on(validated, run):
    """Train the same on a data set that does not have them."""
    held = held_out_numbers()
    write_data_set(validated.parent / "data" / "kept_custom", [number for number in range(200) if number not in held])
    plain = run("plain", "datasets.name=kept", "eval.every_updates=0")
    assert not (plain / "model_best.pt").exists() and len(held) == 2
    assert_equal(validated / "model_last.pt", plain / "model_last.pt", but_for=("best_state_dict", "validation"))


def held_out_numbers() -> set[int]:
    """Return the two rows of the first of 100 speakers that the seed of the run draws, by the order of their names."""
    names = sorted(f"speaker {number}" for number in range(100))
    drawn = int(names[np.random.default_rng(666).permutation(100)[0]].removeprefix("speaker "))
    return {2 * drawn, 2 * drawn + 1}


def test_a_run_that_is_stopped_in_a_validation_finishes_it_and_goes_on_bit_for_bit_without_the_same_rows(
    validated, run, monkeypatch, capsys
):
    monkeypatch.setattr(Ears, "stops_at", 2)
    stopped = run("stopped", ends=False)
    assert read(stopped / "model_last.pt")["update"] == rows(stopped)[-1]["update"] == 6
    monkeypatch.setattr(Ears, "stops_at", -1)
    monkeypatch.setattr(Scripted, "done", 3)
    capsys.readouterr()
    resumed = run("stopped")
    assert without_times(resumed) == without_times(validated)
    assert_equal(resumed / "model_last.pt", validated / "model_last.pt")
    said = capsys.readouterr().out
    assert "2 of 200 rows are held out for validations (eval.dev=held_out), all those of 1 speaker" in said
    assert "validation after every 3 updates, as before" in said


def test_it_does_not_go_on_with_the_held_out_rows_in_training(validated, run):
    interrupted_copy(validated, validated.parent / "other", update=9)
    with pytest.raises(ValueError, match=r"is of another run: .* it holds rows out .*\(eval\.dev=held_out, and "):
        run("other", "eval.every_updates=0")
    assert run("other", "eval.every_updates=0", "eval.dev=held_out", "optim.max_updates=10")
