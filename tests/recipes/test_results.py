from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes.digits import results
from recipes.digits.lanes import LEDGER
from tests.recipes.test_quickstart import result, write_metrics

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.eval.results import write_result


def write_cell(cell: results.Cell, edits: int, cpu_seconds: float) -> None:
    """Write what a finished cell leaves: its evaluation, its metrics, and its commands' rows in the ledger."""
    write_result(result(edits), cell.out)
    write_metrics(cell.folder)
    ledger = cell.folder.parents[1] / "logs" / LEDGER
    ledger.parent.mkdir(exist_ok=True)
    with ledger.open("a", encoding="utf-8") as file:
        for phase in cell.training:
            file.write(json.dumps({"command": phase.command, "cpu_seconds": cpu_seconds, "exit_code": 0}) + "\n")


@pytest.mark.slow
def test_the_tables_compare_each_algorithm_with_the_base_over_all_seeds_and_say_what_it_cost(tmp_path: Path) -> None:
    for name, edits in {"base": 2, "best_of": 1}.items():
        write_result(result(edits), tmp_path / name)
    wrong_words = {"draft": 0, "nft": 1}
    for name, row in results.cells([4, 9], tmp_path).items():
        for cell in row:
            write_cell(cell, wrong_words.get(name, 2), 10.0 * cell.seed)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in results.tables(tmp_path, [4, 9]).splitlines()
        if line.startswith("|")
    ]
    cells = {tuple(row[:2]): row[2:] for row in rows}
    assert cells["model", "seeds"][1:3] == ["error rate by Whisper tiny.en", "change, % of the base's (95 %)"]
    assert cells["base", "1"][:3] == ["2", "50.0 %", ""] and cells["base", "1"][-1] == "1"
    assert cells["base, best of 8", "1"][1:3] == ["25.0 %", "-50.0% (-50.0% to -50.0%)"]
    assert cells["base, best of 8", "1"][-1] == "8"
    assert cells["nft", "2"][:3] == ["1, 1", "25.0 %", "-50.0% (-50.0% to -50.0%)"]
    assert cells["nft", "2"][-4:] == ["3", "65", "100", "1"]  # (40 + 90) / 2 CPU seconds
    assert cells["gaussian_grpo", "2"][-3] == "130"  # the same for each of its two stages
    assert cells["draft, K = 1", "1"][-3] == "80"  # the first seed alone; training and interpolation
    assert cells["draft", "9"] == ["0.0 %", "-100.0% (-100.0% to -100.0%)"]


def test_after_an_interruption_the_tables_are_of_what_is_complete(tmp_path: Path) -> None:
    for name, edits in {"base": 2, "best_of": 1}.items():
        write_result(result(edits), tmp_path / name)
    planned = results.cells([4, 9], tmp_path)
    write_cell(planned["nft"][0], 1, 10.0)
    write_metrics(planned["nft"][1].folder)  # trained, and not yet evaluated
    table = results.tables(tmp_path, [4, 9])
    rows = [line.split() for line in table.splitlines() if line.startswith("| nft")]
    assert [row[:4] for row in rows] == [["|", "nft", "|", "1"], ["|", "nft", "|", "4"]]  # seeds, and the seed
    assert "draft" not in table
    phases = {lane.name: len(lane.phases) for lane in results.lanes([4, 9], tmp_path)}
    assert (phases["nft_seed_4"], phases["nft_seed_9"]) == (1, 2)  # what is complete is not trained again


def test_all_algorithms_spend_as_many_cpu_seconds_in_updates_and_validate_after_the_last_one() -> None:
    for algorithm in [*results.ALGORITHMS.values(), *results.VARIANTS.values()]:
        assert algorithm.updates * algorithm.cpu_seconds == pytest.approx(results.BUDGET, rel=0.02)
        cfg = compose_config(algorithm.config, algorithm.settings, RLTrainConfig)
        assert cfg.optim.max_updates == algorithm.updates == algorithm.validations * (cfg.eval.every_updates or 0)


def test_algorithms_run_seed_by_seed_and_variants_last() -> None:
    names = [lane.name for lane in results.lanes([1, 2])]
    algorithms = ["nft", "gaussian_grpo", "flow_grpo", "draft"]
    variants = ["nft_draft", "no_augmentation", "last_step", "no_anchor", "no_voice"]
    seed_by_seed = [f"{name}_seed_{seed}" for seed in (1, 2) for name in algorithms]
    assert names == ["base", "best_of", *seed_by_seed, *(f"{name}_seed_1" for name in variants)]


def test_only_gaussian_grpo_starts_from_stage_1_and_an_ablation_changes_one_key_of_draft() -> None:
    runs = results.cells([1])
    modules = {name: [phase.module.rpartition(".")[2] for phase in row[0].training] for name, row in runs.items()}
    assert modules.pop("gaussian_grpo") == ["train", "train_rl"]
    by_scores = {name: modules.pop(name) for name in ("nft", "flow_grpo", "nft_draft")}
    assert set(map(tuple, by_scores.values())) == {("train_rl",)}
    assert set(map(tuple, modules.values())) == {("train_rl", "interpolate")}
    draft = set(runs["draft"][0].training[0].arguments)
    for name in results.VARIANTS:
        if name != "nft_draft":
            _, key = changed = sorted(set(runs[name][0].training[0].arguments) - draft)
            assert changed[0] == f"ckpts.save_dir={runs[name][0].folder}" and key.startswith("rl.")
