"""Checkpoints whose structure was changed: a run is refused in a sentence, starts from the weights, or resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fuzz.mutations import attempt, each_example
from tests.fuzz.structure import changed, changes
from tests.train.test_resume_checks import run, saved
from tests.train.test_train_state import after, assert_equal, folder

from f5_tts.train.checkpoint_dir import initial_weights


@pytest.mark.slow
@pytest.mark.parametrize("examples", [30, pytest.param(3000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_a_changed_checkpoint_never_ends_in_a_trace_nor_in_other_weights(examples: int, tmp_path: Path):
    whole, number = saved()[0], 0
    outcomes: dict[str, int] = {"starting": 0, "resuming": 0}

    def resume(edits: Any, path: Path) -> None:
        resumed, messages = run(seed=1), []
        checkpoint = folder(path).find_latest(pretrained=True)
        assert checkpoint is not None
        initial_weights(checkpoint)
        resumed.resume(checkpoint, messages.append)
        outcomes[messages[-1].partition(" ")[0]] += 1
        if "model_state_dict" not in {edit[0][0] for edit in edits}:
            assert_equal(resumed.model.state_dict(), whole["model_state_dict"])
        assert resumed.update in (0, 3)
        after(resumed, 1)

    def check(edits: Any) -> None:
        nonlocal number
        number += 1
        torch.save(changed(whole, edits), tmp_path / "model_last.pt")
        attempt("structure of a checkpoint", lambda: resume(edits, tmp_path), "")

    each_example(check, changes(whole), examples)
    assert sum(outcomes.values()) < number and all(outcomes.values())
