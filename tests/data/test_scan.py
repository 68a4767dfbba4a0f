from __future__ import annotations

import os
import signal
import subprocess
import sys
from argparse import ArgumentParser

import numpy as np
import pytest
import soundfile

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.data.scan import CHUNK_SIZE, map_in_processes, scan_recording
from f5_tts.scripts.flags import add_flags

RATE = 8_000
TONE = (0.3 * np.sin(0.5 * np.arange(RATE))).astype("float32")


@pytest.mark.parametrize(
    "samples, kind",
    [
        (TONE, ""),
        (TONE[:700], "too short"),
        (np.tile(TONE, 31), "too long"),
        (np.zeros(RATE), "silent"),
        (np.full(RATE, np.nan), "not finite"),
    ],
    ids=["good", "short", "long", "silent", "nan"],
)
def test_a_recording_lasts_its_seconds_or_has_a_kind_of_trouble(samples, kind, tmp_path):
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    result = scan_recording(tmp_path / "a.wav", 30.0)
    assert (result.kind, result.seconds) == (kind, None if kind else 1.0)
    assert ("a.wav" in result.reason) == bool(kind)


def test_what_is_odd_about_a_recording_is_noted(tmp_path):
    noise = np.random.default_rng(0).normal(scale=0.1, size=RATE)
    pauses = noise * np.where(np.arange(RATE) % 2000 < 500, 0.1, 1.0)
    for samples, kinds in ((noise, ["flat level"]), (pauses, []), (pauses * 32768, ["scaled"])):
        soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
        assert [kind for kind, _ in scan_recording(tmp_path / "a.wav", 30.0).notes] == kinds


def test_a_file_that_is_missing_or_no_audio_has_its_kind(tmp_path):
    (tmp_path / "a.wav").write_text("no audio")
    assert scan_recording(tmp_path / "a.wav", 30.0).kind == "unreadable"
    assert scan_recording(tmp_path / "b.wav", 30.0).kind == "missing"


def test_the_commands_leave_out_what_training_leaves_out():
    parser = ArgumentParser()
    add_flags(parser)
    limit = compose_config("F5TTS_v1_Base", [], TrainConfig).datasets.max_seconds
    assert parser.parse_args([]).max_seconds == limit == 30.0
    assert parser.parse_args(["--max_seconds", "12.5"]).max_seconds == 12.5
    for wrong in (["--max_seconds", "nan"], ["--max_seconds", "0"], ["--workers", "0"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)


def end_at_the_third(item: int) -> int:
    if item == 2 * CHUNK_SIZE:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_sentence():
    with pytest.raises(ChildProcessError, match=r"a process that reads recordings was killed: .* lower --workers 2"):
        list(map_in_processes(end_at_the_third, range(4 * CHUNK_SIZE), 2, "reading"))


def test_one_worker_is_this_process():
    assert list(map_in_processes(lambda number: -number, [-3, -2], 1, "counting", done=5)) == [3, 2]


PROGRAM = """
import os, signal
from f5_tts.data.scan import map_in_processes

if __name__ == "__main__":
    for number in map_in_processes(abs, range(-40, 0), 2, "counting"):
        print(number, flush=True)
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_results_come_in_order_and_the_workers_end_with_the_process_that_started_them_even_when_it_is_killed(tmp_path):
    """Wait for the end of all workers.

    They inherit the output pipe, so `run` returns only after the last one exits.
    """
    (tmp_path / "program.py").write_text(PROGRAM)
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(words, env=os.environ | paths, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == [str(number) for number in range(40, 0, -1)]
    assert done.returncode == -9
