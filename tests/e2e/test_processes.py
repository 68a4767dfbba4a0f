"""Both stages on two processes with torchrun and gloo: resuming, stopping, failing, and equal weights on all ranks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import pytest
from tests.e2e.runs import (
    BRIGHT,
    REPOSITORY,
    SMALL_BATCHES,
    STAGE_1,
    STAGE_2,
    assert_equal,
    interrupted_copy,
    read,
    rows,
    until_an_update,
    without_times,
)

from f5_tts.train import train, train_rl

pytestmark = pytest.mark.slow
SOAK_RUNS = int(os.environ.get("F5_TTS_SOAK_RUNS", "50"))
ONE = {"stage 1": train.main, "stage 2": train_rl.main, "draft": train_rl.main}
MODULES = {"stage 1": "f5_tts.train.train", "stage 2": "f5_tts.train.train_rl", "draft": "f5_tts.train.train_rl"}
OPTIONS = {
    "stage 1": [*STAGE_1, SMALL_BATCHES, "datasets.num_workers=1", "optim.grad_accumulation_steps=2"],
    "stage 2": [*STAGE_2, "rl.algorithm=gaussian_grpo", "rl.shared_noise=true", "rl.credit=word"],
    "draft": [*STAGE_2, "rl.algorithm=draft", "rl.draft.augmentation=0.5", BRIGHT, "rl.credit=sample"],
}
BREAKS = """
import os

class Breaks:
    component = "level"
    calls = 0

    def score(self, inputs):
        self.calls += 1
        if self.calls == 2 and os.environ["RANK"] == "1":
            raise RuntimeError("the ear fell off")
        return [0.1 * place for place in range(len(inputs))]
"""

HACKED = """
class Rises:
    component = "level"
    calls = 0

    def score(self, inputs):
        self.calls += 1
        return [self.calls + 0.1 * place for place in range(len(inputs))]


class Falls(Rises):
    component = "sim"

    def score(self, inputs):
        self.calls += 1
        return [-0.1 * self.calls] * len(inputs)
"""


def launch(module: str, options: list[str], **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", module]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *options], env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, **pipes)


def run_two(module: str, options: list[str], **environment: str) -> tuple[int, str, str]:
    """Run a module on two processes; return its exit code, standard output and standard error."""
    with launch(module, options, **environment) as run:
        out, err = run.communicate(timeout=250)
    return run.returncode, out, err


@pytest.fixture(scope="module")
def warmed_up(tmp_path_factory, tiny, at_home) -> Path:
    """Train stage 1 on one process."""
    folder = tmp_path_factory.mktemp("warmed_up")
    assert train.main([*STAGE_1, SMALL_BATCHES, *tiny, f"ckpts.save_dir={folder}"])
    return folder


@pytest.fixture(scope="module", params=["stage 1", "stage 2", pytest.param("draft", marks=pytest.mark.soak)])
def whole(request, tmp_path_factory, tiny, warmed_up) -> tuple[str, Path, str]:
    """Train a stage for four updates on two processes; return the stage, the folder and the output."""
    stage = request.param
    folder = tmp_path_factory.mktemp("two")
    if stage != "stage 1":
        shutil.copy(warmed_up / "model_last.pt", folder)
    code, out, err = run_two(MODULES[stage], [*OPTIONS[stage], *tiny, f"ckpts.save_dir={folder}"])
    assert code == 0, err
    return stage, folder, out


def test_two_processes_are_one_model_that_writes_once(whole):
    stage, folder, out = whole
    assert [row["update"] for row in rows(folder)] == [1, 2, 3, 4]
    assert rows(folder)[0]["health/weights_apart"] == 0  # compared then, every fifty updates, and before each save
    assert (read(folder / "model_last.pt")["update"], read(folder / "model_last.pt")["processes"]) == (4, 2)
    if stage == "stage 2":
        assert out.count("4 prompts x 2 samples = 8 rollouts per update, 4 per forward, on 2 processes") == 1
        assert all(row["ratio/initial_max_dev"] == 0 for row in rows(folder))
        assert all(row["group/prompts"] == 4 for row in rows(folder))


def test_two_processes_go_on_bit_for_bit(whole, tiny, tmp_path):
    stage, folder, _ = whole
    copy = interrupted_copy(folder, tmp_path / "resumed")
    code, _, err = run_two(MODULES[stage], [*OPTIONS[stage], *tiny, f"ckpts.save_dir={copy}"])
    assert code == 0, err
    assert without_times(copy) == without_times(folder)
    assert_equal(copy / "model_last.pt", folder / "model_last.pt")


def test_a_run_goes_on_with_one_process_and_with_two_again(whole, tiny, tmp_path, capsys):
    """Weights, moments and counters continue; each change of the process count is logged; each update has one row."""
    stage, folder, _ = whole
    copy = interrupted_copy(folder, tmp_path / "resumed")
    options = [*OPTIONS[stage], *tiny, f"ckpts.save_dir={copy}"]
    before = read(copy / "model_last.pt")
    assert ONE[stage]([*options, "optim.max_updates=3", "optim.learning_rate=1e-12"])
    assert "the number of processes changes from 2 to 1:" in capsys.readouterr().out
    after = read(copy / "model_last.pt")
    assert (after["update"], after["processes"]) == (3, 1)
    assert {state["step"].item() for state in after["optimizer_state_dict"]["state"].values()} == {3.0}
    assert before["model_state_dict"].keys() == after["model_state_dict"].keys()
    code, out, err = run_two(MODULES[stage], options)
    assert code == 0, err
    assert out.count("the number of processes changes from 1 to 2:") == out.count("resuming ") == 1
    assert (read(copy / "model_last.pt")["update"], read(copy / "model_last.pt")["processes"]) == (4, 2)
    assert [row["update"] for row in rows(copy)] == [1, 2, 3, 4]


def test_a_stop_that_only_the_launcher_hears_ends_both_after_the_same_update_with_all_saved(tiny, tmp_path):
    """The launcher forwards the signal to each process in turn, so it arrives at different moments of an update."""
    options = [*OPTIONS["stage 1"], *tiny, "optim.max_updates=2000", f"ckpts.save_dir={tmp_path}"]
    with launch(MODULES["stage 1"], options) as run:
        output = until_an_update(run)
        run.send_signal(signal.SIGTERM)
        output += run.communicate()[1]
    assert run.returncode != 0
    assert output.count("the run was stopped and saved: the same command resumes it") == 2, output
    assert 1 <= read(tmp_path / "model_last.pt")["update"] == rows(tmp_path)[-1]["update"] < 2000


def test_a_reward_that_fails_on_one_process_ends_both_with_its_sentence(warmed_up, tiny, tmp_path):
    (tmp_path / "breaks.py").write_text(BREAKS)
    save_dir = tmp_path / "run"
    save_dir.mkdir()
    shutil.copy(warmed_up / "model_last.pt", save_dir)
    provider = ["rl.rewards.providers=[{name: 'breaks:Breaks'}]", "rl.rewards.gates=[]", "rl.credit=sample"]
    options = [*OPTIONS["stage 2"], *tiny, *provider, "ckpts.last_per_updates=1", f"ckpts.save_dir={save_dir}"]
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    code, _, err = run_two(MODULES["stage 2"], options, PYTHONPATH=paths)
    assert code != 0
    assert "error: process 1 of 2 failed: " in err and err.count("the ear fell off") >= 2
    assert read(save_dir / "model_last.pt")["update"] == 1


def test_a_hacked_reward_ends_both_processes_after_the_same_update_with_all_saved(warmed_up, tiny, tmp_path):
    """Let the reward rise and the voice get worse with every call; each process judges one of the two items."""
    (tmp_path / "hacked.py").write_text(HACKED)
    save_dir = tmp_path / "run"
    save_dir.mkdir()
    shutil.copy(warmed_up / "model_last.pt", save_dir)
    reward = ["rl.rewards.providers=[{name: 'hacked:Rises'}]", "rl.rewards.gates=[]", "rl.credit=sample"]
    lines = (REPOSITORY / "data/mini_custom/dev.jsonl").read_text("utf-8").splitlines()
    few = [line for line in lines if '"seen": false' in line][:2]
    (tmp_path / "dev.jsonl").write_text("\n".join(few) + "\n", encoding="utf-8")
    watch = ["eval.every_updates=1", "eval.dev_takes=1", "eval.steps=2", "eval.speaker_judge=hacked:Falls"]
    watch += [f"eval.items_dir={tmp_path}"]
    options = [*OPTIONS["stage 2"], *tiny, *reward, *watch, "rl.stop_when=judge_worse", "optim.max_updates=40"]
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    code, out, err = run_two(MODULES["stage 2"], [*options, f"ckpts.save_dir={save_dir}"], PYTHONPATH=paths)
    assert code == 0, err
    assert out.count("because the alarm reward_hacked is active") == 1
    assert 3 <= read(save_dir / "model_last.pt")["update"] == rows(save_dir)[-1]["update"] < 40
    assert read(save_dir / "model_last.pt")["processes"] == 2 and (save_dir / "model_best.pt").is_file()


@pytest.mark.soak
@pytest.mark.timeout(120 * SOAK_RUNS)
@pytest.mark.usefixtures("real_start")
def test_runs_of_two_processes_under_load_end_with_exit_code_0(warmed_up, tiny, tmp_path):
    """Keep all CPUs busy with others; one run in three shards its model, whose group outlives its destruction."""
    burn = [sys.executable, "-c", "while True: pass"]
    ends: dict[str, list[int]] = {"stage 1": [], "stage 1, sharded": [], "stage 2": []}
    with ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            stack.callback(stack.enter_context(subprocess.Popen(burn)).kill)
        for number, kind in zip(range(SOAK_RUNS), cycle(ends), strict=False):
            stage, shard = kind.partition(",")[0], f"optim.shard={'sharded' in kind}".lower()
            folder = tmp_path / str(number)
            folder.mkdir()
            if stage == "stage 2":
                shutil.copy(warmed_up / "model_last.pt", folder)
            options = [*OPTIONS[stage], *tiny, shard, "optim.max_updates=2", f"ckpts.save_dir={folder}"]
            code, _, err = run_two(MODULES[stage], options)
            ends[kind].append(code)
            if code:
                print(f"run {number} ({kind}) ended with {code}: {err[-4000:]}")
    for kind, codes in ends.items():
        print(f"{len(codes)} runs of two processes ({kind}), {codes.count(0)} with exit code 0")
    assert not any(code for codes in ends.values() for code in codes)


@pytest.mark.usefixtures("real_start")
def test_accelerate_launch_that_starts_one_process_for_several_is_refused(tiny, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--module"]
    options = [MODULES["stage 1"], *OPTIONS["stage 1"], *tiny, f"ckpts.save_dir={tmp_path / 'run'}"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode != 0
    assert "error: accelerate launch was asked for several processes and started one" in done.stderr
    assert not (tmp_path / "run").exists()
