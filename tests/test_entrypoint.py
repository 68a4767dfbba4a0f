from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset

import f5_tts
from f5_tts.entrypoint import EXIT_INTERRUPTED, run_command
from f5_tts.train import train, train_rl

TINY = [f"model.arch.{size}" for size in ("dim=16", "depth=1", "heads=1", "dim_head=16", "text_dim=8", "conv_layers=0")]
MINI = ["-cn", "F5TTS_Mini", "datasets.name=mini", *TINY]


def ended(main: Callable[[list[str]], bool], *argv: str) -> int | str | None:
    """Run a command and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        run_command(main, list(argv))
    return stop.value.code


def raising(error: Exception) -> Callable[[list[str]], bool]:
    def main(argv: list[str]) -> bool:
        raise error

    return main


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, PermissionError, ImportError, FloatingPointError])
def test_a_users_mistake_is_one_sentence_and_exit_code_2(capsys, error: type[Exception]):
    assert ended(raising(error("rl.steps=0 is not allowed"))) == 2
    assert capsys.readouterr().err == "error: rl.steps=0 is not allowed\n"


@pytest.mark.parametrize(
    ("error", "words"), [(MemoryError(), "the memory of this machine is full"), (TimeoutError(), "TimeoutError")]
)
def test_an_error_without_a_message_is_said_all_the_same(capsys, error: Exception, words: str):
    assert ended(raising(error)) == 2
    assert capsys.readouterr().err.startswith(f"error: {words}")


def test_a_mistake_of_ours_keeps_its_trace():
    with pytest.raises(AssertionError):
        run_command(raising(AssertionError("ours")), [])


def test_a_trace_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("F5_TTS_TRACE", "1")
    with pytest.raises(ValueError, match="steps"):
        run_command(raising(ValueError("steps")), [])


def test_a_stopped_run_says_how_to_go_on_and_a_finished_one_says_nothing(capsys):
    assert ended(lambda argv: False) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "the run was stopped and saved: the same command resumes it\n"
    assert ended(lambda argv: True) == 0
    assert capsys.readouterr().err == ""


WAITS = """
import sys, threading, time
from f5_tts.entrypoint import run_command

def main(argv):
    threading.Thread(target=time.sleep, args=[60]).start()  # as a reward that is still being asked
    print("waiting", flush=True)
    time.sleep(60)

run_command(main, [])
"""


def interrupted(command: list[str], until: str) -> tuple[int, float, str]:
    """Start a command, press Ctrl-C once it has printed a line; return its code, seconds until the end, and stderr."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        assert any(line.startswith(until) for line in process.stdout)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        return process.returncode, time.monotonic() - started, err


def test_ctrl_c_is_one_line_and_waits_for_no_thread():
    code, seconds, err = interrupted([sys.executable, "-c", WAITS], "waiting")
    assert (code, err) == (EXIT_INTERRUPTED, "interrupted\n")
    assert seconds < 30


@pytest.mark.slow
@pytest.mark.usefixtures("real_start")
@pytest.mark.parametrize(
    "words",
    [
        "f5_tts.train.train -cn F5TTS_Mini datasets.name=mini",
        "f5_tts.train.train_rl -cn F5TTS_Mini_RL ckpts.init_from=hf://a/b/c.pt",
        "f5_tts.scripts.doctor",
        "f5_tts.infer.cli",
        "recipes.digits.make_corpus mini",
    ],
)
def test_ctrl_c_while_a_command_imports_its_libraries_is_one_line(words: str, tmp_path):
    """A module in the place of numpy tells when the imports have begun, and never ends."""
    (tmp_path / "numpy.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    paths = f"{tmp_path}:{Path(f5_tts.__file__).parents[1]}:{Path(__file__).parents[1]}"
    command = ["env", f"PYTHONPATH={paths}", sys.executable, "-m", *words.split()]
    assert interrupted(command, "importing")[::2] == (EXIT_INTERRUPTED, "interrupted\n")


def test_a_users_own_program_keeps_its_ctrl_c():
    program = "import signal, f5_tts; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.check_output([sys.executable, "-c", program]) == b"True\n"


RANKS = """
import atexit, os, sys, time
import torch, torch.distributed as dist
from f5_tts.entrypoint import run_command

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(1)  # gives the interpreter's lock to others while the interpreter is being taken apart

def hold_the_lock():
    end = time.monotonic() + 3
    while time.monotonic() < end:
        pass

def main(argv):
    if rank == 1:
        atexit.register(hold_the_lock)
    dist.init_process_group("gloo", init_method=f"file://{argv[0]}", rank=rank, world_size=2)
    tensor = torch.zeros(3)
    if rank == 0:
        time.sleep(1.5)
    work = dist.all_reduce(tensor, async_op=True)
    if rank == 0:
        work.wait()
    else:
        sys.setswitchinterval(100)
    sys.at_the_very_end = Slow()
    return True

os.environ["WORLD_SIZE"] = "2"
others = []
for rank in range(2):
    if not (child := os.fork()):
        run_command(main, sys.argv[1:])
    others.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in others])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="uses fork")
def test_a_rank_whose_group_still_has_threads_ends_with_its_own_exit_code(tmp_path):
    """A thread of gloo waits for the interpreter's lock when rank 1 is done; before, it aborted the process."""
    command = [sys.executable, "-c", RANKS, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert (done.stdout, done.stderr) == ("[0, 0]\n", "")


FAULTS = """
import ctypes, resource, torch
from f5_tts.entrypoint import M_MMAP_THRESHOLD, tune_malloc

ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)  # large blocks go back at once; else that is up to the heap's layout
if {keep}:
    tune_malloc()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    layers = [torch.ones(2**20) for _ in range(8)]
    del layers
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.slow
def test_memory_that_torch_frees_is_used_again_without_page_faults():
    """Count page faults.

    Eight times 4 MiB in pages of 4 KiB are 8,192 faults, either once or twice, or at each of fifty repetitions.
    """
    code = [FAULTS.format(keep=keep) for keep in (True, False)]
    kept, returned = (int(subprocess.check_output([sys.executable, "-c", text])) for text in code)
    assert kept < 5 * 8192 < returned


# --- the commands of both stages ---


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Make a working directory with a vocabulary and a data set of one row, whose audio is missing."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data" / "mini_custom"
    Dataset.from_dict({"audio_path": ["gone.wav"], "text": ["one"], "speaker": ["a"]}).save_to_disk(data / "raw")
    (data / "duration.json").write_text(json.dumps({"duration": [1.0]}))
    (data / "vocab.txt").write_text(" \no\nn\ne\n")
    capsys.readouterr()  # discard the progress bar of the data set's writer
    return tmp_path


def complaint(capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], bool], *argv: str) -> str:
    """Run a command and return its error message, which must be one line."""
    assert ended(main, *argv) == 2
    output = capsys.readouterr().err
    assert output.startswith("error: ") and output.count("\n") == 1
    return output


def test_a_mistyped_key_is_named_with_the_one_that_was_meant(capsys, here):
    output = complaint(capsys, train_rl.main, "-cn", "F5TTS_Mini_RL", "ckpts.init_from=hf://a/b.pt", "rl.stpes=8")
    assert "rl.stpes" in output and "did you mean rl.steps" in output


def test_a_data_set_that_is_not_there_is_named_with_the_rule_for_its_folder(capsys, here):
    output = complaint(capsys, train.main, *MINI, "datasets.name=gone")
    assert "no data set at data/gone_custom" in output and "data/<datasets.name>_<model.tokenizer>" in output


def test_an_empty_list_of_durations_is_named(capsys, here):
    (here / "data/mini_custom/duration.json").write_text('{"duration": []}')
    output = complaint(capsys, train.main, *MINI)
    assert "data/mini_custom/duration.json lists no durations" in output


def test_a_checkpoint_of_another_architecture_is_named_with_both_shapes(capsys, here):
    wrong = {"model_state_dict": {"transformer.proj_out.weight": torch.zeros(100, 32)}}
    (here / "ckpts/F5TTS_Mini").mkdir(parents=True)
    torch.save(wrong, here / "ckpts/F5TTS_Mini/model_last.pt")
    output = complaint(capsys, train.main, *MINI, "datasets.pair_speakers=false", "optim.num_warmup_updates=0")
    assert "model_last.pt does not fit this model" in output and "-cn" in output


def test_a_save_dir_that_cannot_be_written_is_named(capsys, here):
    (here / "file").touch()
    output = complaint(capsys, train.main, *MINI, "ckpts.save_dir=file")
    assert "cannot write to ckpts.save_dir=file" in output


def test_audio_that_is_not_there_is_named(capsys, here):
    output = complaint(capsys, train.main, *MINI, "datasets.pair_speakers=false", "optim.num_warmup_updates=0")
    assert "no audio file at gone.wav" in output


def test_stage_2_without_stage_1_is_told_what_to_copy(capsys, here):
    changes = ["datasets.pair_speakers=false", "rl.prompt_frac_range=[0.1,0.3]"]
    output = complaint(capsys, train_rl.main, "-cn", "F5TTS_Mini_RL", *TINY, *changes)
    assert "no model_last.pt" in output and "copy the model_last.pt of stage 1 there" in output


@pytest.mark.slow
@pytest.mark.usefixtures("real_start")
@pytest.mark.parametrize(
    "module, argv, starts",
    [
        (
            "train_rl",
            ["-cn", "F5TTS_Mini_RL", "rl.stpes=8"],
            [
                *["error: 3 problems", "1. unknown key rl.stpes", "2. no data set at data/mini_custom: "],
                "3. no model_last.pt or model_<update>.pt in ckpts.save_dir=ckpts/F5TTS_Mini_RL: ",
            ],
        ),
        ("train", ["-cn", "F5TTS_Mini"], ["error: no data set at data/mini_base_custom: "]),
    ],
)
def test_the_commands_refuse_in_a_line_for_each_problem_without_a_trace(
    tmp_path, module: str, argv: list[str], starts: list[str]
):
    done = subprocess.run(
        [sys.executable, "-m", f"f5_tts.train.{module}", *argv], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert all(line.startswith(start) for line, start in zip(done.stderr.splitlines(), starts, strict=True))
