"""The quick start's own part: its commands and their order, and the report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from recipes.digits.quickstart import BASE, lanes, write_report

from f5_tts.eval.results import Result, write_result
from f5_tts.eval.statistics import Score
from f5_tts.eval.test_set import read_items

ITEMS = Path("data/mini_custom/test.jsonl")


def scored(edits: int, similarity: float) -> list[Score]:
    """Make scores for every eighth test item with this number of wrong words."""
    return [
        Score(
            id=item.id,
            seen=item.seen,
            edits=edits,
            words=4,
            char_edits=edits,
            chars=16,
            stutters=False,
            leaks=False,
            similarity=similarity + 0.01 * (index % 2),
            hypothesis="one",
            opinions={"voice_sim": 0.7, "mos": 2.0 if index % 2 else float("nan")},
        )
        for index, item in enumerate(read_items(ITEMS)[::8])
    ]


def result(edits: int, *, by_pocketsphinx: int = 1, similarity: float = 0.6) -> Result:
    """Make a result with these numbers of wrong words in four by Whisper and by pocketsphinx."""
    scores = {"pocketsphinx": scored(by_pocketsphinx, similarity), "whisper": scored(edits, similarity)}
    guidance = {name: float(edits) for name in scores}
    return Result(
        ckpt="x.pt",
        guidance=guidance,
        dev_error_rates={},
        scores=scores,
        rtf=0.1,
        speaker_judge="ecapa_sim",
        rewards=["digits_ctc", "voice_sim"],
    )


def write_metrics(folder: Path, updates: Sequence[int] = (1, 2, 3)) -> None:
    """Write the metrics of a run with a validation before it and one after its last update."""
    validation = {"eval/wer": 0.5, "eval/sim": 0.6}
    row = {"reward/mean": 1.0, "loss/kl": 0.0, "mem/peak_mb": 100.0}
    rows = [{"update": 0, **validation}, *({"update": update, **row} for update in updates)]
    rows[-1] |= validation
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_one_lane_evaluates_the_base_and_runs_both_stages_and_the_other_one_runs_draft(tmp_path: Path) -> None:
    grpo, draft = (lane.phases for lane in lanes(tmp_path))
    assert [phase.module.rpartition(".")[2] for phase in grpo] == ["evaluate", "train", "train_rl", "evaluate"]
    assert [phase.module.rpartition(".")[2] for phase in draft] == ["train_rl", "interpolate", "evaluate"]
    assert grpo[1].copies == (BASE, tmp_path / "warmup" / f"pretrained_{BASE.name}")
    assert grpo[2].copies == (tmp_path / "warmup" / "model_last.pt", tmp_path / "grpo" / "model_last.pt")


def test_every_model_is_evaluated_by_the_same_judges_and_pocketsphinx_chooses(tmp_path: Path) -> None:
    phases = [phase for lane in lanes(tmp_path) for phase in lane.phases if phase.module.endswith("evaluate")]
    kept = [[word for word in phase.arguments if not word.startswith(("eval.ckpt=", "eval.out="))] for phase in phases]
    assert len(phases) == 3 and kept[0] == kept[1] == kept[2]
    assert "eval.recognisers=[pocketsphinx,whisper]" in kept[0]
    tested = [word for phase in phases for word in phase.arguments if word.startswith("eval.ckpt=")]
    files = [BASE, tmp_path / "grpo" / "model_best.pt", tmp_path / "draft" / "model_between.safetensors"]
    assert tested == [f"eval.ckpt={file}" for file in files]
    _, interpolation, _ = lanes(tmp_path)[1].phases
    assert interpolation.arguments[:2] == [str(tmp_path / "draft" / "model_best.pt"), str(files[2])]


def test_a_printed_command_is_the_one_that_runs(tmp_path: Path) -> None:
    draft, *_ = lanes(tmp_path)[1].phases
    words = shlex.split(draft.command)
    assert words[:4] == ["OMP_NUM_THREADS=1", ".venv/bin/python", "-m", "f5_tts.train.train_rl"]
    assert words[4:] == draft.arguments and f"ckpts.init_from={BASE}" in words


@pytest.mark.slow
def test_a_complete_run_leaves_table_picture_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, trained in {"base": result(2), "grpo": result(2), "draft": result(1, similarity=0.65)}.items():
        write_result(trained, tmp_path / "eval" / folder)
    for name in ("grpo", "draft"):
        write_metrics(tmp_path / name)
    write_report(tmp_path)
    printed = capsys.readouterr().out
    text = (tmp_path / "results.md").read_text("utf-8")
    assert text.strip() in printed
    header, _, base, grpo, draft = ([cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()[2:7])
    errors = ["error rate by Whisper tiny.en", "error rate by pocketsphinx"]
    judges = ["similarity by ecapa_sim", "similarity by voice_sim (reward)", "MOS by DistillMOS"]
    assert header == ["model", "guidance", *errors, *judges, "clips"]
    assert base[:2] == [f"base (sha256 {sha256(BASE.read_bytes()).hexdigest()[:12]})", "2"]
    assert base[2:4] == ["50.0 % (50.0 to 50.0)", "25.0 % (25.0 to 25.0)"]
    assert base[5:] == ["0.700 (0.700 to 0.700)", "2.000 (2.000 to 2.000)", "20"]
    assert grpo[:3] == ["stage 2 (grpo)", "2", "50.0 % (50.0 to 50.0)"]
    assert draft[:3] == ["stage 2 (draft)", "1", "25.0 % (25.0 to 25.0)"]
    assert "grpo: no clear difference from base, +0 % (+0 to +0) by Whisper tiny.en." in text
    assert "draft: fewer word errors than base, -50 % (-50 to -50) by Whisper tiny.en." in text
    assert "a voice closer to the prompt's, similarity +0.050 (+0.050 to +0.050) by ecapa_sim." in text
    assert ">MOS by DistillMOS</th>" in (tmp_path / "report.html").read_text("utf-8")
    assert (tmp_path / "run.svg").read_text("utf-8").startswith("<svg")
