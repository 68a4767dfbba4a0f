"""Ends of stage 2 that nobody planned: rewards that fail or exit, and a second Ctrl-C while a reward is being asked."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.e2e.runs import REPOSITORY, STAGE_2, assert_equal, make_data_set, read, rows, warm_up, without_times

from f5_tts.entrypoint import EXIT_INTERRUPTED
from f5_tts.train import train, train_rl
from f5_tts.types import RewardInput

pytestmark = pytest.mark.slow
RL = ["rl.prompt_frac_range=[0.2,0.3]", "rl.credit=sample", "ckpts.last_per_updates=100", "ckpts.save_per_updates=100"]
OLD_POLICY = ["rl.algorithm=nft", "rl.nft.old_decay=0.5", "rl.mini_repeat_count=1"]  # with a running baseline


class Fails:
    """A reward for loud clips that fails at its third call, once."""

    component = "level"

    def __init__(self) -> None:
        self.calls = 0

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        self.calls += 1
        note = Path(os.environ["FAILED"])
        if self.calls == 3 and not note.exists():
            note.touch()
            self.fail()
        return [float(item.audio.square().mean()) for item in inputs]

    def fail(self) -> None:
        raise KeyError("voice")


class Exits(Fails):
    """Ends the program in place of failing."""

    def fail(self) -> None:
        sys.exit(0)


class Cancels(Fails):
    """Raises what is no Exception, as a library for the network does."""

    def fail(self) -> None:
        raise asyncio.CancelledError("the pool is closed")


class Moves(Fails):
    """Changes the working directory in place of failing."""

    def fail(self) -> None:
        os.chdir("/")


class Waits(Fails):
    """Never answers."""

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        Path(os.environ["FAILED"]).touch()
        time.sleep(600)
        return []


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, tiny) -> Iterator[Callable[[str, Path], list[str]]]:
    """Train stage 1 on a few recordings; return the arguments of stage 2 with a reward of this file, in a folder.

    The working directory is that of the recordings.
    """
    place = tmp_path_factory.mktemp("data")
    options = [*tiny, *make_data_set(place, 6), "datasets.batch_size_type=sample", "datasets.batch_size_per_gpu=2"]
    start = warm_up(train.main, options, place, tmp_path_factory.mktemp("start"))

    def of_stage_2(reward: str, folder: Path) -> list[str]:
        if not folder.exists():
            folder.mkdir()
            shutil.copy(start, folder)
        provider = f"rl.rewards.providers=[{{name: 'tests.e2e.test_ends:{reward}'}}]"
        return [*STAGE_2, *options, *RL, provider, "optim.epochs=100", f"ckpts.save_dir={folder}"]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield of_stage_2


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ("Fails", r"raised KeyError: 'voice' \(.*test_ends\.py, line \d+; F5_TTS_TRACE=1 shows"),
        ("Exits", r"called sys\.exit\(0\), which would end the run"),
        pytest.param("Cancels", "raised CancelledError: the pool is closed", marks=pytest.mark.soak),
    ],
)
def test_a_reward_that_fails_or_exits_is_named_and_the_same_command_goes_on_bit_for_bit(
    arguments, reward, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("FAILED", str(tmp_path / "failed"))
    ended, whole = tmp_path / "ended", tmp_path / "whole"
    with pytest.raises(ValueError, match=f"reward provider tests.e2e.test_ends:{reward} {words}"):
        train_rl.main([*arguments(reward, ended), *OLD_POLICY])
    update = read(ended / "model_last.pt")["update"]
    assert 1 <= update < 4 and rows(ended)[-1]["update"] == update
    assert f"its state after update {update} is saved in" in capsys.readouterr().out
    for folder in (ended, whole):
        assert train_rl.main([*arguments(reward, folder), *OLD_POLICY])
    assert without_times(ended) == without_times(whole)
    assert_equal(ended / "model_last.pt", whole / "model_last.pt")


def test_a_reward_that_changes_the_working_directory_moves_no_path_of_the_run(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("FAILED", str(tmp_path / "moved"))
    assert train_rl.main(arguments("Moves", Path("run_in_a_relative_folder")))
    assert (tmp_path / "moved").exists() and read(Path("run_in_a_relative_folder") / "model_last.pt")["update"] == 4


@pytest.mark.timeout(300)
@pytest.mark.parametrize("overlap", ["true", "false"])
def test_a_second_ctrl_c_waits_for_no_reward(arguments, overlap, tmp_path):
    command = [sys.executable, "-m", "f5_tts.train.train_rl", *arguments("Waits", tmp_path / "run")]
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])
    environment = os.environ | {"FAILED": str(tmp_path / "asked"), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, f"rl.rewards.overlap={overlap}"], env=environment, **pipes) as run:
        assert run.stderr is not None
        while not (tmp_path / "asked").exists():
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        assert any("stopping after this update" in line for line in run.stderr)
        run.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert run.stderr.read().endswith("interrupted\n")
        assert (run.wait(), time.monotonic() - started < 30) == (EXIT_INTERRUPTED, True)
    assert read(tmp_path / "run" / "model_last.pt")["objective"] != "grpo"  # the start; nothing was saved over it
