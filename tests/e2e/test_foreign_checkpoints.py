"""Training checkpoints of strangers as `model_last.pt`: what a run says, and what it leaves as it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.e2e.runs import SMALL_BATCHES, STAGE_1, read, rows

from f5_tts.train import train

Change = Callable[[dict[str, Any]], object]


def moments_of_three(payload: dict[str, Any]) -> None:
    for state in payload["optimizer_state_dict"]["state"].values():
        state |= {"exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}


REFUSED: dict[str, Change] = {
    "update is -5": lambda payload: payload.update(update=-5),
    "skips is list": lambda payload: payload.update(skips=["none"]),
    "has optimizer_state_dict and no ema_model_state_dict": lambda payload: payload.pop("ema_model_state_dict"),
    "and its schedule at 'x'": lambda payload: payload["scheduler_state_dict"].update(last_epoch="x"),
    "NaN": lambda payload: payload["ema_model_state_dict"]["ema_model.transformer.proj_out.bias"].fill_(float("nan")),
}
STARTS: dict[str, Change] = {
    "the optimizer state of": moments_of_three,
    "made by grpo": lambda payload: payload.update(objective="grpo"),
    "made by gaussian_nll": lambda payload: payload.pop("optimizer_state_dict"),
}


@pytest.fixture(scope="module")
def made(at_home, tiny, tmp_path_factory) -> tuple[Path, list[str]]:
    """Make two updates; return the folder, and the options of a run that makes two more."""
    folder, options = tmp_path_factory.mktemp("made"), [*STAGE_1, *tiny, SMALL_BATCHES]
    assert train.main([*options, "optim.max_updates=2", f"ckpts.save_dir={folder}"])
    return folder, options


def changed(made: tuple[Path, list[str]], change: Change, folder: Path) -> list[str]:
    """Copy the folder with a change of its checkpoint; return the options of a run there."""
    payload = read(made[0] / "model_last.pt")
    change(payload)
    shutil.copy(made[0] / "metrics.jsonl", folder)
    torch.save(payload, folder / "model_last.pt")
    return [*made[1], f"ckpts.save_dir={folder}"]


@pytest.mark.parametrize("problem", REFUSED)
def test_a_state_that_is_refused_leaves_checkpoint_and_metrics_as_they_are(problem: str, made, tmp_path: Path):
    options = changed(made, REFUSED[problem], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=problem):
        train.main(options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != ".lock"} == before


@pytest.mark.parametrize("reason", STARTS)
def test_a_run_that_starts_from_the_weights_alone_says_why_and_keeps_the_metrics(reason, made, tmp_path, capsys):
    options = changed(made, STARTS[reason], tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert train.main(options)
    output = capsys.readouterr().out
    assert "starting gaussian_nll from the raw weights of" in output and reason in output
    assert f"which are now in {tmp_path / 'set_aside' / 'metrics.jsonl'}" in output
    assert (tmp_path / "set_aside" / "metrics.jsonl").read_bytes() == before
    assert [row["update"] for row in rows(tmp_path)] == [1, 2, 3, 4]
