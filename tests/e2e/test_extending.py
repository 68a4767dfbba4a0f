"""The worked examples of docs/extending.md, extracted from the page and run as they are printed."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from tests.e2e.runs import REPOSITORY, read, rows

from f5_tts.train import train_rl

PAGE = (REPOSITORY / "docs/extending.md").read_text("utf-8")
SMALL = ["datasets.batch_size_per_gpu=2", "rl.mini_repeat_count=2", "rl.steps=2"]  # added to every command

pytestmark = pytest.mark.slow


def section(title: str) -> str:
    """Return the text under a heading, up to the next one."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def write_files(text: str, folder: Path) -> list[Path]:
    """Write every fenced block that names its file."""
    files = [(folder / name, body) for name, body in re.findall(r'```\w+ title="(.*?)"\n(.*?)```', text, re.DOTALL)]
    for path, body in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, encoding="utf-8")
    return [path for path, _ in files]


def trained(text: str, folder: Path) -> list[dict[str, float]]:
    """Run the section's command of stage 2 in this process; the rows of its metrics."""
    (command,) = re.findall(r"^\.venv/bin/f5-tts train-rl ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert train_rl.main([*shlex.split(command.replace("\\\n", " ")), *SMALL, f"ckpts.save_dir={folder}"])
    return rows(folder)


def test_the_algorithm_trains_for_two_updates(at_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = section("An algorithm of your own")
    (module,) = write_files(text, tmp_path)
    monkeypatch.syspath_prepend(module.parent)
    made = trained(text, tmp_path / "run")
    assert [row["update"] for row in made] == [1, 2]
    assert all(row["loss/flow"] > 0 and row["grad_norm"] > 0 for row in made)
    after, before = (read(tmp_path / "run" / name) for name in ("model_last.pt", "reference.pt"))
    assert any(
        not torch.equal(value, before["model_state_dict"][name]) for name, value in after["model_state_dict"].items()
    )


def test_the_algorithm_is_ten_lines() -> None:
    (source,) = re.findall(r"```python.*?\n(.*?)```", section("An algorithm of your own"), re.DOTALL)
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith(("import", "from", '"""'))]
    assert len(lines) <= 10


def test_the_reward_trains_for_two_updates_beside_a_built_in_one(
    at_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = section("A reward of your own")
    project, module = write_files(text, tmp_path)
    assert 'signal = ["scipy' in project.read_text("utf-8")
    monkeypatch.syspath_prepend(module.parent)
    made = trained(text, tmp_path / "run")
    assert [row["update"] for row in made] == [1, 2]
    for row in made:
        assert 0 <= row["reward/spectral_balance:SpectralBalance.balance"] <= 1
        assert 0 <= row["reward/spectral_balance:SpectralBalance.high_fraction"] <= 1
        assert "reward/digits_wer.acc" in row and row["grad_norm"] > 0


def test_the_reward_names_its_extra_where_its_library_is_missing(
    at_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = section("A reward of your own")
    _, module = write_files(text, tmp_path)
    monkeypatch.syspath_prepend(module.parent)
    monkeypatch.delitem(sys.modules, "spectral_balance", raising=False)
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    with pytest.raises(ImportError, match=r'pip install -e "spectral_balance\[signal\]"'):
        trained(text, tmp_path / "run")
