"""Trackers with their real libraries; W&B runs in its own processes, since it reads its environment once."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.train.metrics_log import MetricsLog
from f5_tts.train.sample_log import Samples
from f5_tts.train.trackers import TRACKERS, build_tracker, is_reachable, run_id

REPOSITORY = Path(__file__).parents[2]
TONE = torch.sin(torch.arange(1600) * 0.2)
SAMPLES = Samples(clips={"gen": TONE}, sample_rate=16000, rows=[{"group": 1, "text": "four", "reward": 0.5}])
STAGE_1 = ["-cn", "F5TTS_Mini", "datasets.batch_size_per_gpu=500", "ckpts.logger=wandb", "ckpts.log_samples=true"]
KEY = "k" * 40
PREAMBLE = """
import sys, time
from pathlib import Path
from f5_tts.train.metrics_log import MetricsLog
from f5_tts.train.trackers import build_tracker
from tests.train.test_trackers import SAMPLES, config
folder = Path(sys.argv[1])
"""  # program of a separate process


def config(folder: Path, *overrides: str) -> TrainConfig:
    return compose_config("F5TTS_Mini", [f"ckpts.save_dir={folder}", *overrides], TrainConfig)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --- the run id ---


def test_the_published_configs_are_tracked_by_wandb_and_the_small_ones_by_nobody(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.delenv("WANDB_NAME", raising=False)
    assert build_tracker(config(tmp_path)) is None
    ckpts = compose_config("F5TTS_v1_Base", ["datasets.name=mini_rl"], TrainConfig).ckpts
    names = (ckpts.logger, ckpts.wandb_project, ckpts.wandb_run_name)
    assert names == ("wandb", "f5-tts-rl", "F5TTS_v1_Base_mse_mini_rl")


def test_wandbs_own_variables_name_project_and_run_unless_the_config_does(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_NAME", "third")
    ckpts = compose_config("F5TTS_Mini", [], TrainConfig).ckpts
    assert (ckpts.wandb_project, ckpts.wandb_run_name) == ("mine", "third")
    assert compose_config("F5TTS_Mini", ["ckpts.wandb_project=yours"], TrainConfig).ckpts.wandb_project == "yours"


def test_a_resumed_run_has_the_id_in_its_folder_and_a_new_one_its_own(tmp_path):
    ckpts = config(tmp_path).ckpts
    first = run_id(ckpts, first=0)
    assert re.fullmatch(r"[0-9a-f]{8}", first)
    assert run_id(ckpts, first=20) == first
    assert run_id(ckpts, first=0) != first
    assert run_id(config(tmp_path, "ckpts.wandb_resume_id=known").ckpts, first=20) == "known"
    assert run_id(ckpts, first=20) == "known"


def test_an_id_is_no_draw_from_the_random_state(tmp_path):
    before = torch.get_rng_state()
    run_id(config(tmp_path).ckpts, first=0)
    assert torch.equal(torch.get_rng_state(), before)


# --- is the server reachable ---


@contextmanager
def listener() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_answers_that_accepts_a_connection():
    with listener() as url:
        assert is_reachable(url)
    assert not is_reachable(url)
    assert not is_reachable("http://nowhere.invalid")


def test_behind_a_proxy_it_is_the_proxy_that_must_answer(monkeypatch):
    with listener() as url:
        for proxy in (url, url.removeprefix("http://")):  # both forms are common
            monkeypatch.setenv("http_proxy", proxy)
            assert is_reachable("http://nowhere.invalid")
    assert not is_reachable("http://nowhere.invalid")


# --- a tracker that fails ---


class Full:
    """Tracker whose disk is full from the second update on."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def start(self, first: int) -> None: ...

    def log(self, metrics: Mapping[str, float], update: int) -> None:
        self.asked.append(update)
        if update > 1:
            raise OSError(28, "No space left on device")

    def log_samples(self, samples: Samples, update: int) -> None: ...

    def close(self) -> None:
        raise AssertionError("it was given up")


def test_a_tracker_that_fails_is_warned_of_once_and_the_file_goes_on(tmp_path, capsys):
    tracker = Full()
    metrics_log = MetricsLog(tmp_path, first=0, total=3, title="test", tracker=tracker)
    for update in (1, 2, 3):
        metrics_log({"loss": 0.5}, update)
    metrics_log.close()
    assert len(rows(tmp_path)) == 3 and tracker.asked == [1, 2]
    output = capsys.readouterr().out
    assert output.count("warning: tracker Full failed") == 1 and "No space left on device" in output


@pytest.mark.parametrize("who", [{"writes": False, "total": 9}, {"writes": True, "total": 3}])
def test_other_processes_and_finished_runs_start_no_tracker(tmp_path, who):
    (tmp_path / "metrics.jsonl").write_text("")
    metrics_log = MetricsLog(tmp_path, first=3, title="test", tracker=build_tracker(tensorboard(tmp_path)), **who)
    metrics_log.close()
    assert not (tmp_path / "tensorboard").exists()


# --- tensorboard (its end to end run: tests/e2e/test_two_stages.py) ---


def tensorboard(folder: Path) -> TrainConfig:
    return config(folder, "ckpts.logger=tensorboard")


def test_a_resumed_run_has_each_update_once_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, updates in ((0, range(1, 5)), (2, range(3, 5))):
        metrics_log = MetricsLog(
            tmp_path, first=first, total=9, title="test", tracker=build_tracker(tensorboard(tmp_path))
        )
        for update in updates:
            metrics_log({"loss": float(first + update), "grad_norm": float("nan")}, update)
        metrics_log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 2), (3, 5), (4, 6)]
    assert "grad_norm" not in events.Tags()["scalars"]


# --- trackio ---


@pytest.mark.slow
def test_trackio_has_metrics_clips_and_the_run_that_a_resumed_one_goes_on_in(tmp_path):
    code = (
        "for first in (0, 2):\n"
        "    tracker = build_tracker(config(folder, 'ckpts.logger=trackio'))\n"
        "    metrics_log = MetricsLog(folder, first=first, total=9, title='test', tracker=tracker)\n"
        "    for update in (first + 1, first + 2):\n"
        "        metrics_log({'loss': float(update)}, update)\n"
        "    metrics_log.log_samples(SAMPLES, first + 2)\n"
        "    metrics_log.close()\n"
        "import trackio; from trackio.sqlite_storage import SQLiteStorage\n"
        "(run,) = trackio.Api().runs('f5-tts-rl')\n"
        "logs = SQLiteStorage.get_logs('f5-tts-rl', run.name)\n"
        "print('seen', [(row['step'], row['loss']) for row in logs if 'loss' in row])\n"
    )
    output = python(tmp_path, PREAMBLE + code, str(tmp_path), TRACKIO_DIR=str(tmp_path / "trackio"), HF_HUB_OFFLINE="1")
    assert "seen [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]" in output
    assert "warning" not in output
    assert len(list((tmp_path / "trackio" / "media").rglob("*.wav"))) == 2


# --- wandb ---


def python(home: Path, code: str, *arguments: str, **environment: str) -> str:
    """Run code in a process without the user's settings and API key, and return its output."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "TRACKIO_"))}
    own = {"HOME": str(home), "WANDB_DIR": str(home / "wandb_dir"), "WANDB_CONFIG_DIR": str(home / "config")}
    own |= {"WANDB_CACHE_DIR": str(home / "cache"), "WANDB_DATA_DIR": str(home / "data")}
    paths = [str(REPOSITORY), str(REPOSITORY / "src")]
    own |= {"PYTHONPATH": os.pathsep.join(paths), "WANDB_DISABLE_SERVICE": "1", "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.program", code, *arguments],
        env={**inherited, **own, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def run_folders(home: Path) -> list[Path]:
    return sorted((home / "wandb_dir" / "wandb").glob("offline-run-*"))


@pytest.mark.slow
def test_without_a_key_wandb_is_offline_and_the_resumed_run_goes_on_in_it(tmp_path, tiny):
    """Make two updates with a reachable server and no API key, and two more with WANDB_MODE=offline."""
    train = "import sys; from f5_tts.train.train import main; main(sys.argv[1:])"
    options = [*STAGE_1, *tiny, f"ckpts.save_dir={tmp_path / 'run'}"]
    with listener() as url:
        output = python(tmp_path, train, *options, "optim.max_updates=2", WANDB_MODE="online", WANDB_BASE_URL=url)
    (first,) = run_folders(tmp_path)
    why = "W&B: no API key (wandb login, or WANDB_API_KEY); this run is logged offline; to upload it: wandb sync "
    assert output.count(f"{why}{first}\n") == 1

    output = python(tmp_path, train, *options, WANDB_MODE="offline")
    assert "W&B: this run is logged offline; to upload it: wandb sync " in output
    folders = run_folders(tmp_path)
    assert {folder.name.rpartition("-")[2] for folder in folders} == {(tmp_path / "run/tracker_id").read_text().strip()}
    for folder in folders:
        (file,) = folder.glob("*.wandb")
        assert b"loss" in file.read_bytes() and b"throughput/audio_seconds" in file.read_bytes()
        assert len(list((folder / "files/media/audio/samples").glob("gen_*.wav"))) == 1
    assert [row["update"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]

    sync = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(tmp_path / "wandb_dir/wandb")]
    listed = subprocess.run(sync, capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": str(tmp_path)})
    assert "Would sync 2 run(s)" in listed.stdout + listed.stderr


class Refusing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(401)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def refusing() -> Iterator[str]:
    """Start a server that refuses every API key."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


START = """
started = time.perf_counter()
tracker = build_tracker(config(folder, "ckpts.logger=wandb"))
metrics_log = MetricsLog(folder, first=0, total=3, title="test", tracker=tracker)
print("started in", time.perf_counter() - started)
metrics_log({"loss": 1.0}, 1)
"""
KILLED = """
import psutil
service = [child for child in psutil.Process().children(recursive=True) if child.name().startswith("wandb-core")]
assert service
for process in service:
    process.kill()
    process.wait()
"""
THE_REST = """
for update in (2, 3):
    metrics_log({"loss": 1.0}, update)
metrics_log.log_samples(SAMPLES, 3)
metrics_log.close()
"""


@pytest.mark.slow
def test_a_refused_key_or_a_server_that_is_gone_makes_the_run_offline_in_time(tmp_path):
    with refusing() as url:
        told = python(tmp_path, PREAMBLE + START + THE_REST, str(tmp_path), WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    gone = python(tmp_path, PREAMBLE + START + THE_REST, str(tmp_path), WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    assert re.search(r"^W&B: .*401.*; this run is logged offline", told, re.MULTILINE)
    assert f"W&B: {url} does not answer; this run is logged offline" in gone
    for output in (told, gone):
        (seconds,) = re.findall(r"started in ([\d.]+)", output)
        assert float(seconds) < 15
        assert "warning: tracker" not in output
    assert len(run_folders(tmp_path)) == 2
    assert list((run_folders(tmp_path)[0] / "files/media/table/samples").glob("table_*.json"))


@pytest.mark.slow
def test_a_run_goes_on_when_wandbs_own_process_dies(tmp_path):
    output = python(tmp_path, PREAMBLE + START + KILLED + THE_REST, str(tmp_path), WANDB_MODE="offline")
    assert output.count("warning: tracker Wandb failed") == 1
    assert [row["update"] for row in rows(tmp_path)] == [1, 2, 3]


def test_every_logger_of_the_config_has_its_tracker():
    with pytest.raises(ValueError, match="wandb or tensorboard or trackio, or null"):
        compose_config("F5TTS_Mini", ["ckpts.logger=mlflow"], TrainConfig)
    assert set(TRACKERS) == {"wandb", "tensorboard", "trackio"}
