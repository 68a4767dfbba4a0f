"""A command that is started as a fork, compared with one that the interpreter starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.forkserver import FORK

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the interpreter starts all processes"),
    pytest.mark.slow,
]
ROOT = Path(__file__).parents[1]
SURROUNDINGS = """
import json, locale, os, signal, sys, threading
import torch

files = sorted(os.listdir("/proc/self/fd"))
print(json.dumps({
    "argv": sys.argv[1:], "path": sys.path, "cwd": os.getcwd(), "main": "files" in dir(sys.modules["__main__"]),
    "environment": {name: value for name, value in os.environ.items() if name != "F5_TTS_TESTS_FORK"},
    "signals": {number: str(signal.getsignal(number)) for number in (1, 2, 10, 13, 15, 17, 25)},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "parent": os.getppid(), "session": os.getsid(0) == os.getpid(), "group": os.getpgid(0) == os.getpid(),
    "threads": threading.active_count(), "of torch": torch.get_num_threads(), "trace": sys.gettrace(),
    "type": str(torch.get_default_dtype()), "umask": os.umask(0), "nice": os.nice(0), "stdin": sys.stdin.read(),
    "locale": locale.getlocale(), "bytecode": sys.dont_write_bytecode,
    "streams": [[each.encoding, each.errors, each.line_buffering] for each in (sys.stdin, sys.stdout, sys.stderr)],
}))
"""
DICE = "import random, numpy, torch, uuid; print(random.random(), numpy.random.rand(), uuid.uuid4(), torch.rand(1))"


def start(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.program", code, *arguments]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    settings: dict[str, Any] = {"cwd": ROOT, "text": True, **pipes, **options}
    return subprocess.Popen(command, **settings)


def both(code: str, *arguments: str, text: str = "", **options: Any) -> list[tuple[int, str, str]]:
    """Return exit code, standard output and standard error of a fork and of a process of the interpreter."""
    environment = options.pop("env", os.environ)
    return [communicate(code, *arguments, text=text, env=environment | {FORK: fork}, **options) for fork in ("1", "0")]


def communicate(code: str, *arguments: str, text: str = "", **options: Any) -> tuple[int, str, str]:
    with start(code, *arguments, **options) as process:
        out, err = process.communicate(text, timeout=60)
    return process.returncode, out, err


def is_fork(process: subprocess.Popen[str]) -> bool:
    return "forkserver" in Path(f"/proc/{process.pid}/cmdline").read_text()


@pytest.mark.slow
def test_a_fork_finds_what_a_process_of_the_interpreter_finds(tmp_path):
    options = {"cwd": tmp_path, "start_new_session": True}
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OURS": "ä", "PYTHONUNBUFFERED": ""}
    fork, real = both(SURROUNDINGS, "one", "two words", text="said\n", env=environment, **options)
    assert json.loads(fork[1]) == json.loads(real[1])
    assert json.loads(fork[1])["parent"] == os.getpid() and json.loads(fork[1])["stdin"] == "said\n"


def test_the_processes_of_this_test_are_forks():
    with start("import time; time.sleep(60)") as process:
        assert is_fork(process)
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "code",
    [
        "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)",
        "import sys; sys.exit('a sentence')",
        "import sys; sys.exit(-1)",
        "import atexit, sys; atexit.register(print, 'last'); sys.exit()",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('last'))).start()",
        "import os; os._exit(7)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', 'exit(5)']).returncode)",
        "import multiprocessing as m; p = m.get_context('spawn').Process(target=print, args=(1,)); p.start(); p.join()",
    ],
)
def test_a_fork_ends_as_a_process_of_the_interpreter_does(code):
    fork, real = both(code)
    assert fork == real


def test_an_error_that_nobody_catches_is_shown_and_is_exit_code_1():
    for code, _, err in both("1 / 0"):
        assert code == 1 and err.endswith("ZeroDivisionError: division by zero\n")


def test_ctrl_c_reaches_a_fork_and_ends_it_as_the_interpreter():
    with start("import time; print('here', flush=True); time.sleep(60)") as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGINT and err.endswith("KeyboardInterrupt\n")


def test_each_fork_draws_its_own_random_numbers():
    first, second = (communicate(DICE)[1].split(" ") for _ in range(2))
    assert len(first) == 4 and all(one != other for one, other in zip(first, second, strict=True))


def test_what_libraries_read_while_they_are_imported_is_not_that_of_another_process():
    code = "import huggingface_hub.constants as hub; print(hub.HF_HOME)"
    fork, real = both(code, env=os.environ | {"HF_HOME": "/nowhere/hub"})
    assert fork == real == (0, "/nowhere/hub\n", "")
    with start("input()", env=os.environ | {"OMP_NUM_THREADS": "3"}) as process:
        assert not is_fork(process)


def test_a_stand_in_for_the_interpreter_passes_on_words_streams_signals_and_ends(interpreter: Path, tmp_path):
    code = "import sys; print(sys.argv[1:], sys.stdin.read()); sys.exit(4)"
    run = ["bash", "-c", '"$0" -m tests.program "$@"; echo "code $?"', str(interpreter), code, "a b"]
    done = subprocess.run(run, cwd=ROOT, input="said", capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("['a b'] said\ncode 4\n", "")
    sleeps = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    for number in (signal.SIGTERM, signal.SIGKILL):
        command = [str(interpreter), "-m", "tests.program", sleeps]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            fork = int(process.stdout.readline())
            process.send_signal(number)
            assert process.wait(60) == -number
        while Path(f"/proc/{fork}").exists():
            time.sleep(0.01)
