from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.report.folders import TEXTS, updates, write_evaluation, write_metrics

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.report.curves import curve_groups
from f5_tts.report.render import seeds_of, tables_of, verdicts_of, write_page
from f5_tts.report.run_record import RunRecord, write_record
from f5_tts.report.seeds import group_by_seed, shared_title
from f5_tts.report.sources import Sources, find_sources

HEARD = {1: {**TEXTS, "a": "x x x x"}, 2: TEXTS}  # by seed; 4 of 12 words are wrong with the first, none with the other


def record(seed: int, **more: object) -> RunRecord:
    return RunRecord(config={"optim.seed": seed, "ckpts.save_dir": f"runs/{seed}", **more}, data_set="8 rows")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two runs that differ by their seed, one with another learning rate, and their evaluations."""
    root: Path = tmp_path_factory.mktemp("runs")
    write_evaluation(root / "base", {**TEXTS, "a": "x x x x", "b": "x x x x"})  # 8 of 12 words are wrong
    for name, seed, rate in (("draft_1", 1, 1e-4), ("draft_2", 2, 1e-4), ("fast", 1, 2e-4)):
        rows = [{**row, "grad_norm": float(seed)} for row in updates(4 + seed)]
        write_metrics(root / name, rows)
        keys = [f"optim.seed={seed}", f"optim.learning_rate={rate}", f"ckpts.save_dir={root / name}"]
        write_record(root / name, compose_config("F5TTS_Mini_RL", keys, RLTrainConfig), "8 rows")
        ckpt = str(root / name / "model_best.pt")
        write_evaluation(root / name / "eval", HEARD[seed], ckpt=ckpt, rewards=["voice_sim"], mark="same")
    return root


@pytest.fixture(scope="module")
def sources(folder: Path) -> Sources:
    return find_sources([folder])


def test_runs_that_differ_by_their_seed_are_grouped_unless_two_have_the_same():
    records = {"a": record(1), "b": record(1, rate=2), "c": record(2), "old": RunRecord(), "older": RunRecord()}
    assert group_by_seed(records) == [["a", "c"], ["b"], ["old"], ["older"]]
    assert group_by_seed({"a": record(1), "c": record(2), "again": record(2)}) == [["a"], ["c"], ["again"]]


def test_a_title_of_several_runs_expands_to_theirs():
    assert shared_title(["run"]) == "run"
    assert shared_title(["seed_1/draft", "seed_12/draft"]) == "seed_{1,12}/draft"
    assert shared_title(["draft", "draft_1"]) == "draft, draft_1" and shared_title(["a1b2", "a2b3"]) == "a1b2, a2b3"


def test_evaluations_of_the_seeds_are_one_model_and_none_is_left_out_as_a_copy(sources: Sources):
    assert seeds_of(sources) == {"draft_{1,2}": ["draft_1", "draft_2"], "fast": ["fast"]}
    assert [(model.title, len(model.results)) for model in sources.models] == [
        ("base", 1),
        ("draft_{1,2}/eval", 2),
        ("fast/eval", 1),
    ]


def test_a_second_evaluation_of_a_run_is_no_second_seed(folder: Path, tmp_path: Path):
    for seed in (1, 2):
        run = write_metrics(tmp_path / f"run_{seed}", updates(3))
        write_record(run, compose_config("F5TTS_Mini_RL", [f"optim.seed={seed}"], RLTrainConfig), "8 rows")
        for name in ("one", "two"):
            write_evaluation(tmp_path / f"{name}_{seed}", HEARD[seed], ckpt=str(run / "model_best.pt"))
    models = find_sources([tmp_path]).models
    assert [(model.title, len(model.results)) for model in models] == [("one_{1,2}", 2), ("two_{1,2}", 2)]


def test_the_table_has_the_mean_over_seeds_and_each_seed_by_itself(sources: Sources):
    merged, single = tables_of(sources)
    assert merged.caption == "On the test set, with 95 % intervals over items and seeds"
    assert list(merged.header) == ["", "base", "draft_{1,2}/eval", "fast/eval"]
    cells = {row[0]: row[2] for row in merged.rows}
    assert cells["error rate by Whisper tiny.en"].startswith("16.7 % (0.0 to ")  # 4 of 24 words
    assert cells["clips"] == "6" and cells["training runs"] == "2"
    assert list(single.header) == ["", "base", "draft_1/eval", "draft_2/eval", "fast/eval"]


def test_the_verdict_of_several_seeds_is_over_items_and_seeds(sources: Sources):
    several, alone = verdicts_of(sources, None)
    change = (
        "no clear difference from base, -50 points (-100 to +0) by Whisper tiny.en"  # from 8 of 12 to 4 of 24 words
    )
    assert several.headline.text == f"draft_{{1,2}}/eval: {change}"
    assert several.details[-1].text.endswith("; over items and seeds: 2 training runs of draft_{1,2}/eval")
    assert alone.details[-1].text.endswith("; one training run")


def test_curves_of_several_seeds_are_their_mean_with_the_standard_deviation_where_all_have_a_value(sources: Sources):
    runs = {training.title: training.rows for training in sources.trainings}
    charts = {chart.metric: chart for group in curve_groups(runs, seeds_of(sources)) for chart in group.charts}
    mean, alone = charts["grad_norm"].lines
    assert (mean.name, alone.name) == ("draft_{1,2}", "fast") and mean.color != alone.color
    assert mean.x.tolist() == [1, 2, 3, 4, 5] and mean.y.tolist() == [1.5] * 5
    assert mean.spread is not None and mean.spread.tolist() == pytest.approx([np.sqrt(0.5)] * 5)
    assert {name for _, name in charts["loss/kl"].alarms} == {f"no_spread of {run}" for run in runs}


def test_seeds_without_an_update_in_common_keep_their_own_lines():
    runs = {"a": [{"update": 1, "grad_norm": 1.0}], "b": [{"update": 2, "grad_norm": 2.0}]}
    (group,) = curve_groups(runs, {"a, b": ["a", "b"]})
    assert [(line.name, line.color) for line in group.charts[0].lines] == [("a", 0), ("b", 0)]


def test_the_page_says_how_many_seeds_a_line_is_of(folder: Path, sources: Sources):
    write_page(sources, folder / "report.html")
    text = (folder / "report.html").read_text("utf-8")
    assert "draft_{1,2}, mean of 2 seeds</li>" in text and "one standard deviation over the seeds" in text
    assert "Each seed by itself" in text
