"""The launch files: the commands that they run, and small runs of both stages on two processes with gloo.

Stand-ins replace SLURM's commands; they do on this machine what SLURM would do on each node.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.runs import MOODY, REPOSITORY, read, rows, until_an_update

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig, TrainConfig

ONE_NODE = "examples/launch/one_node.sh"
SEVERAL_NODES = "examples/launch/several_nodes.sbatch"
SMALL = ["model.vocoder.name=griffin_lim", "optim.mixed_precision=no", "datasets.num_workers=0"]
STAGE_1 = ["datasets.batch_size_per_gpu=700", "ckpts.init_from=null"]
STAGE_2 = [MOODY, "datasets.batch_size_per_gpu=2", "rl.mini_repeat_count=2", "rl.steps=2"]
STAND_INS = {
    "scontrol": '[ "$1" = show ] && echo localhost || echo "$@" >> "$SLURM_SAID"',
    "srun": 'while [[ "$1" == --* ]]; do shift; done; echo $$ > "$SLURM_SAID.task"; exec "$@"',
    "scancel": 'echo "$@" >> "$SLURM_SAID"; kill -TERM "$(cat "$SLURM_SAID.task")"',
    "list": 'printf "%s\\n" "$@"',
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("commands")
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def launch(script: str, arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])
    own = {"PYTHON": sys.executable, "NPROC": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(["bash", script, *arguments], env=os.environ | own | environment, cwd=REPOSITORY, **pipes)


def said(script: str, arguments: list[str], **environment: str) -> tuple[int, str, str]:
    """Run a launch file; return its exit code, standard output and standard error."""
    with launch(script, arguments, **environment) as run:
        out, err = run.communicate(timeout=200)
    return run.returncode, out, err


def slurm(commands: Path, job: Path) -> dict[str, str]:
    """Return the environment of a SLURM job on one node, whose stand-in commands log their arguments to `job`."""
    number = next(port for port in range(20000, 30000) if is_free(port))
    return {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "SLURM_SAID": str(job),
        "SLURM_JOB_ID": f"{number}",
        "SLURM_JOB_NODELIST": "this",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_PER_TASK": "2",
    }


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("localhost", port)) != 0


@pytest.mark.parametrize("script", [ONE_NODE, SEVERAL_NODES])
def test_bash_reads_them(script: str):
    assert subprocess.run(["bash", "-n", script], cwd=REPOSITORY, check=False).returncode == 0


@pytest.mark.parametrize(("stage", "module", "schema"), [("1", "train", TrainConfig), ("2", "train_rl", RLTrainConfig)])
def test_what_they_type_composes_and_starts_eight_processes(
    commands, stage: str, module: str, schema: type[TrainConfig]
):
    code, out, err = said(ONE_NODE, [stage, "optim.seed=3"], PYTHON=str(commands / "list"), NPROC="")
    assert code == 0, err
    words = out.splitlines()
    place = words.index("-m", 1)
    assert words[: place + 2] == [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=8", "--shutdown-timeout=300"),
        *("-m", f"f5_tts.train.{module}"),
    ]
    assert words[place + 2] == "-cn"
    assert compose_config(words[place + 3], words[place + 4 :], schema).optim.seed == 3


def test_several_nodes_meet_at_the_first(commands, tmp_path):
    environment = slurm(commands, tmp_path / "job") | {"PYTHON": str(commands / "list"), "SLURM_JOB_NUM_NODES": "4"}
    code, out, err = said(SEVERAL_NODES, ["1"], **environment)
    assert code == 0, err
    job = int(environment["SLURM_JOB_ID"])
    meeting = ["--nnodes=4", "--rdzv-backend=c10d", f"--rdzv-id={job}", f"--rdzv-endpoint=localhost:{job}"]
    assert out.splitlines()[2:6] == meeting


def test_a_stage_that_is_none_is_said():
    assert said(ONE_NODE, ["3"])[::2] == (2, "error: stage 3 is not known; type 1 or 2\n")
    assert "type 1 (warm-up) or 2 (GRPO)" in said(ONE_NODE, [])[2]


@pytest.fixture(scope="module")
def warmed_up(tmp_path_factory, tiny) -> Path:
    """Train stage 1 with the launch file for one node."""
    folder = tmp_path_factory.mktemp("warmed_up")
    options = [*SMALL, *tiny, *STAGE_1, "optim.max_updates=2", f"ckpts.save_dir={folder}"]
    code, _, err = said(ONE_NODE, ["1", *options])
    assert code == 0, err
    return folder


@pytest.mark.slow
def test_one_node_runs_stage_1_on_all_its_processes(warmed_up):
    saved = read(warmed_up / "model_last.pt")
    assert (saved["update"], saved["processes"], saved["objective"]) == (2, 2, "gaussian_nll")


@pytest.mark.slow
def test_a_job_of_slurm_runs_stage_2_saves_before_its_time_is_over_and_goes_back_into_the_queue(
    warmed_up, commands, interpreter, tiny, tmp_path
):
    start = [f"ckpts.init_from={warmed_up / 'model_last.pt'}", f"ckpts.save_dir={tmp_path / 'run'}"]
    options = ["2", *SMALL, *tiny, *STAGE_2, *start, "optim.epochs=9", "optim.max_updates=2000"]
    environment = slurm(commands, tmp_path / "job") | {"PYTHON": str(interpreter)}
    with launch(SEVERAL_NODES, options, **environment) as run:
        transcripts = until_an_update(run)
        run.send_signal(signal.SIGUSR1)
        transcripts += run.communicate()[1]
    assert transcripts.count("the run was stopped and saved: the same command resumes it") == 2
    job = environment["SLURM_JOB_ID"]
    assert (tmp_path / "job").read_text().splitlines() == [f"--signal=TERM {job}.0", f"requeue {job}"]
    saved = read(tmp_path / "run" / "model_last.pt")
    assert saved["update"] == rows(tmp_path / "run")[-1]["update"] >= 1
    assert (saved["processes"], saved["objective"]) == (2, "grpo")
