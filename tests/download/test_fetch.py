"""Behavior of both fetch commands, tested with the ASR model: separate processes and a hub on loopback."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from tests.download.conftest import User, asr_model, lay, lying_in

from f5_tts.scripts.fetch_reward_asr_model import FILES, REPOSITORY, WEIGHTS

pytestmark = pytest.mark.slow

ASR = "fetch_reward_asr_model"
BLOCK = 10 * 2**20  # bytes that the hub's client buffers before it writes


def test_a_second_run_fetches_only_what_is_missing_or_wrong(hub, files, user, tmp_path):
    folder = tmp_path / "model"
    user.run(ASR, "--cache_dir", folder)
    assert sorted(hub.served) == sorted((name, 0) for name in FILES)
    hub.served.clear()
    assert user.run(ASR, "--cache_dir", folder).returncode == 0
    assert hub.served == []
    (folder / "am.mvn").unlink()
    (folder / "config.yaml").write_bytes(bytes(40))
    assert user.run(ASR, "--cache_dir", folder).returncode == 0
    assert sorted(hub.served) == [("am.mvn", 0), ("config.yaml", 0)]
    assert lying_in(folder) == files


def test_the_revision_reaches_the_hub(hub, files, user, tmp_path):
    hub.repositories[REPOSITORY, "v1"] = asr_model(seed=1)
    assert user.run(ASR, "--cache_dir", tmp_path / "model", "--revision", "v1").returncode == 0
    assert lying_in(tmp_path / "model") == asr_model(seed=1)
    done = user.run(ASR, "--cache_dir", tmp_path / "model", "--revision", "v2")
    assert done.returncode == 2
    assert "no FunAudioLLM/SenseVoiceSmall at v2" in done.stderr and done.stderr.count("\n") == 1


def test_a_change_of_revision_changes_all_that_differs(hub, files, user, tmp_path):
    newer = hub.repositories[REPOSITORY, "v1"] = {**files, "config.yaml": b"a newer one"}
    lay(tmp_path / "model", files)
    user.run(ASR, "--cache_dir", tmp_path / "model", "--revision", "v1")
    assert hub.served == [("config.yaml", 0)]
    assert lying_in(tmp_path / "model") == newer


def test_the_weights_are_away_until_all_else_has_its_place(hub, files, user, tmp_path):
    folder = tmp_path / "model"
    lay(folder, {name: files[name] for name in FILES if name != "config.yaml"})
    (folder / "config.yaml" / "in the way").mkdir(parents=True)
    assert user.run(ASR, "--cache_dir", folder).returncode == 2
    assert not (folder / WEIGHTS).exists()
    shutil.rmtree(folder / "config.yaml")
    assert user.run(ASR, "--cache_dir", folder).returncode == 0
    assert hub.served == [("config.yaml", 0)]
    assert lying_in(folder) == files


# --- faults during a download ---


@pytest.mark.slow
def test_after_a_dropped_connection_no_model_is_there_and_the_next_run_goes_on(hub, user, tmp_path):
    files = hub.repositories[REPOSITORY, "main"] = asr_model(size=BLOCK + 5000)
    hub.breaks[WEIGHTS] = BLOCK + 1000
    done = user.run(ASR, "--cache_dir", tmp_path / "model")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: model.pt could not be downloaded (" in done.stderr and "run the same command again" in done.stderr
    assert {path.name for path in (tmp_path / "model").iterdir()} == {".fetch", ".fetch.lock"}
    hub.down = False
    hub.served.clear()
    assert user.run(ASR, "--cache_dir", tmp_path / "model").returncode == 0
    assert hub.served == [(WEIGHTS, BLOCK)]
    assert lying_in(tmp_path / "model") == files


def test_a_connection_that_drops_once_is_taken_up_again_in_the_same_run(hub, user, tmp_path):
    files = hub.repositories[REPOSITORY, "main"] = asr_model(size=BLOCK + 5000)
    hub.breaks[WEIGHTS], hub.stays_up = BLOCK + 1000, True
    assert user.run(ASR, "--cache_dir", tmp_path / "model").returncode == 0
    assert hub.served[-2:] == [(WEIGHTS, 0), (WEIGHTS, BLOCK)]
    assert lying_in(tmp_path / "model") == files


@pytest.mark.parametrize("size", [3000, 2000], ids=["other bytes", "fewer bytes"])
def test_contents_with_a_wrong_checksum_never_reach_the_folder(hub, files, user, tmp_path, size: int):
    hub.replaced[WEIGHTS] = bytes(size)
    done = user.run(ASR, "--cache_dir", tmp_path / "model")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    wrong = (
        "does not have the checksum of FunAudioLLM/SenseVoiceSmall"
        if size == 3000
        else "should be of size 3000 but has size 2000"
    )
    assert wrong in done.stderr
    assert not (tmp_path / "model" / WEIGHTS).exists()
    hub.replaced.clear()
    assert user.run(ASR, "--cache_dir", tmp_path / "model").returncode == 0
    assert lying_in(tmp_path / "model") == files


def test_without_checksums_a_whole_file_is_taken_and_it_says_so(hub, files, user, tmp_path):
    hub.checksums = False
    done = user.run(ASR, "--cache_dir", tmp_path / "model")
    assert lying_in(tmp_path / "model") == files
    assert done.stdout.count("(fetched; no checksum to compare it with)") == len(FILES)


def test_an_interrupted_run_leaves_no_model_and_the_next_one_goes_on(hub, user, tmp_path):
    files = hub.repositories[REPOSITORY, "main"] = asr_model(size=BLOCK + 5000)
    hub.halts[WEIGHTS] = BLOCK + 1000
    words = [sys.executable, "-m", f"f5_tts.scripts.{ASR}", "--cache_dir", str(tmp_path / "model")]
    running = subprocess.Popen(words, env=user.settings(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert hub.halted.wait(60)
    wait_until_written(tmp_path / "model" / ".fetch", BLOCK)
    running.send_signal(signal.SIGINT)
    output = running.communicate(timeout=60)[1]
    assert running.returncode == 130 and output.endswith("the same command resumes it\n") and "Trace" not in output
    assert {path.name for path in (tmp_path / "model").iterdir()} == {".fetch", ".fetch.lock"}
    hub.released.set()
    hub.halts.clear()
    hub.served.clear()
    assert user.run(ASR, "--cache_dir", tmp_path / "model").returncode == 0
    assert hub.served == [(WEIGHTS, BLOCK)]
    assert lying_in(tmp_path / "model") == files


def wait_until_written(folder: Path, size: int) -> None:
    """Wait until the first `size` bytes of the weights are on the disk."""
    until = time.monotonic() + 60
    while sum(path.stat().st_size for path in folder.glob(f"{WEIGHTS}.*")) < size:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_two_runs_at_once_end_with_one_whole_model(hub, user, tmp_path):
    files = hub.repositories[REPOSITORY, "main"] = asr_model(size=200_000)
    words = [sys.executable, "-m", f"f5_tts.scripts.{ASR}", "--cache_dir", str(tmp_path / "model")]
    runs = [subprocess.Popen(words, env=user.settings(), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert lying_in(tmp_path / "model") == files


def test_a_bar_shows_how_far_each_file_is(files, user, tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))  # lines and columns
    words = [sys.executable, "-m", f"f5_tts.scripts.{ASR}", "--cache_dir", str(tmp_path / "model")]
    done = subprocess.run(words, env=user.settings(), stderr=theirs, stdout=subprocess.DEVNULL, check=False)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert re.search(r"model\.pt: 100%.* 3\.00k/3\.00k", shown)


# --- without a network ---


@pytest.mark.parametrize(
    "flags, settings", [(["--offline"], {}), ([], {"HF_HUB_OFFLINE": "1"})], ids=["flag", "variable"]
)
def test_offline_the_cache_of_the_hub_will_do_and_nothing_is_asked(hub, files, user, tmp_path, flags, settings):
    user.fill_cache(REPOSITORY, *FILES)
    hub.asked.clear()
    done = user.run(ASR, "--cache_dir", tmp_path / "model", *flags, **settings)
    assert done.returncode == 0
    assert (hub.asked, lying_in(tmp_path / "model")) == ([], files)
    assert done.stdout.count("(copied; as in FunAudioLLM/SenseVoiceSmall in the hub's cache)") == len(FILES)


def test_offline_what_lies_in_the_folder_will_do(hub, files, user, tmp_path):
    lay(tmp_path / "model", files)
    done = user.run(ASR, "--cache_dir", tmp_path / "model", "--offline")
    assert (done.returncode, hub.asked) == (0, [])
    assert done.stdout.count("(already present; no checksum to compare it with)") == len(FILES)


def test_offline_a_missing_file_is_named_with_its_address_and_its_place(hub, files, user, tmp_path):
    folder = tmp_path / "model"
    lay(folder, {name: data for name, data in files.items() if name not in ("am.mvn", WEIGHTS)})
    done = user.run(ASR, "--cache_dir", folder, "--offline")
    assert (done.returncode, hub.asked) == (2, [])
    assert done.stderr == (
        f"error: no connection was made, because of --offline; copy these files to {folder} manually:\n"
        f"  am.mvn from {hub.url}/{REPOSITORY}/resolve/main/am.mvn\n"
        f"  model.pt from {hub.url}/{REPOSITORY}/resolve/main/model.pt\n"
    )
    lay(folder, files)
    assert user.run(ASR, "--cache_dir", folder, "--offline").returncode == 0


def test_a_damaged_copy_in_the_cache_is_not_taken(files, user, tmp_path):
    user.fill_cache(REPOSITORY, *FILES)
    blob = next((user.home / "hub").rglob(hashlib.sha256(files[WEIGHTS]).hexdigest()))
    blob.write_bytes(files[WEIGHTS][:1000])
    done = user.run(ASR, "--cache_dir", tmp_path / "model", "--offline")
    assert done.returncode == 2
    assert "does not have the checksum of" in done.stderr and "delete it" in done.stderr
    assert not (tmp_path / "model" / WEIGHTS).exists()


@pytest.fixture
def nowhere(tmp_path: Path) -> User:
    """Return a user whose hub does not answer."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return User(tmp_path / "home", f"http://127.0.0.1:{closed.getsockname()[1]}")


def test_without_a_network_it_quickly_says_what_to_bring_from_where(nowhere, tmp_path):
    started = time.monotonic()
    done = nowhere.run(ASR, "--cache_dir", tmp_path / "model")
    assert time.monotonic() - started < 10
    first, *lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: the hub is not reachable \(.*refused.*\); copy these files to .*/model manually:", first
    )
    needed = [name for name in FILES if name != "tokens.json"]
    assert lines == [f"  {name} from {nowhere.endpoint}/{REPOSITORY}/resolve/main/{name}" for name in needed]
    assert not (tmp_path / "model").exists()


def test_without_a_network_a_whole_model_in_the_folder_will_do(nowhere, tmp_path):
    lay(tmp_path / "model", asr_model())
    done = nowhere.run(ASR, "--cache_dir", tmp_path / "model")
    assert done.returncode == 0
    assert done.stdout.startswith("the hub is not reachable (") and "using the files on this machine" in done.stdout


@pytest.mark.parametrize("page", ["<html>log in</html>", "{}"])
def test_an_answer_that_is_not_the_hubs_is_no_answer(hub, tmp_path, page: str):
    hub.elsewhere[f"api/models/{REPOSITORY}"] = page.encode()
    done = User(tmp_path / "home", f"{hub.url}/elsewhere").run(ASR, "--cache_dir", tmp_path / "model")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the hub is not reachable (") and "Traceback" not in done.stderr


def test_a_repository_that_is_not_there_is_not_taken_for_a_missing_network(hub, user, tmp_path):
    done = user.run(ASR, "--cache_dir", tmp_path / "model")
    assert done.returncode == 2 and f"the hub has no {REPOSITORY} at its main branch" in done.stderr


def test_a_file_in_the_folders_place_is_named(user, tmp_path):
    (tmp_path / "model").touch()
    done = user.run(ASR, "--cache_dir", tmp_path / "model")
    assert done.returncode == 2 and f"{tmp_path}/model is a file, where a folder should be" in done.stderr
