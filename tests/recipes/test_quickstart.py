"""The quick start's own part: its commands and their order, when they are skipped, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes.digits.quickstart import ITEMS, Phase, phases, write_report

from f5_tts.eval.results import Result, write_result
from f5_tts.eval.statistics import Score
from f5_tts.eval.test_set import read_items

HEARD = ("pocketsphinx", "whisper")


def scored(edits: int) -> dict[str, list[Score]]:
    """Make scores for all test items with this number of wrong words, equal for both recognisers."""
    rows = [
        Score(
            id=item.id,
            seen=item.seen,
            edits=edits,
            words=4,
            char_edits=edits,
            chars=16,
            stutters=False,
            leaks=False,
            similarity=0.6 + 0.01 * (index % 5),
            hypothesis="one",
        )
        for index, item in enumerate(read_items(ITEMS))
    ]
    return dict.fromkeys(HEARD, rows)


def result(edits: int) -> Result:
    return Result(ckpt="x.pt", guidance=dict.fromkeys(HEARD, 2.0), dev_error_rates={}, scores=scored(edits), rtf=0.1)


def test_the_job_is_evaluate_warm_up_evaluate_grpo_evaluate_and_hands_checkpoints_on(tmp_path: Path) -> None:
    job = phases(tmp_path)
    assert [phase.module.rpartition(".")[2] for phase in job] == [
        "evaluate",
        "train",
        "evaluate",
        "train_rl",
        "evaluate",
    ]
    assert job[1].copies is not None and job[1].copies[1].name.startswith("pretrained_")
    assert job[3].copies == (tmp_path / "warmup" / "model_last.pt", tmp_path / "grpo" / "model_last.pt")


def test_a_phase_whose_result_exists_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = tmp_path / "scores.json"
    done.touch()
    Phase(title="evaluate", module="no.such.module", arguments=[], result=done).run()
    assert "exists: nothing to do" in capsys.readouterr().out


@pytest.mark.slow
def test_a_phase_that_fails_ends_the_job_with_its_exit_code() -> None:
    with pytest.raises(SystemExit) as ended:
        Phase(title="evaluate", module="f5_tts.scripts.evaluate", arguments=["eval.stpes=8"]).run()
    assert ended.value.code == 2


@pytest.mark.slow
def test_a_complete_run_leaves_table_picture_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, edits in {"base": 2, "warmup": 2, "grpo": 1}.items():
        write_result(result(edits), tmp_path / "eval" / folder)
    (tmp_path / "grpo").mkdir()
    row = {"reward/mean": 1.0, "reward/digits_wer.acc": 0.5, "reward/voice_sim.sim": 0.6, "loss/kl": 0.0}
    lines = [json.dumps({"update": update, **row}) for update in (1, 2, 3)]
    (tmp_path / "grpo" / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_report(tmp_path)
    printed = capsys.readouterr().out
    assert "-50%" in printed  # one wrong word in four instead of two
    assert (tmp_path / "results.md").read_text("utf-8").count("unseen") == 3
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "listen.html").read_text("utf-8").count("<audio") == 8 * 4
