from __future__ import annotations

from pathlib import Path

import pytest
from tests.report.folders import updates, write_evaluation, write_metrics, write_samples

from f5_tts.report.sources import find_sources, rollout_clips, sampled_updates


def titles(*folders: Path, before: str | None = None) -> tuple[list[str], list[str]]:
    sources = find_sources(folders, before)
    return [run.title for run in sources.trainings], [found.title for found in sources.evaluations]


def test_runs_and_evaluations_below_a_folder_are_found_and_the_untrained_model_is_first(tmp_path: Path):
    for name in ("nft", "draft", "set_aside/old", "a/b/c/too/deep"):
        write_metrics(tmp_path / name, updates(3))
    write_evaluation(tmp_path / "eval" / "after", {"a": "one"}, rewards=["digits_wer"])
    write_evaluation(tmp_path / "eval" / "start", {"a": "one"})
    assert titles(tmp_path) == (["draft", "nft"], ["start", "after"])
    assert titles(tmp_path, before="after") == (["draft", "nft"], ["after", "start"])


def test_equal_names_in_several_folders_are_told_apart(tmp_path: Path):
    for name in ("one", "two"):
        write_metrics(tmp_path / name, updates(3))
        write_evaluation(tmp_path / name / "eval" / "best", {"a": "one"})
    assert titles(tmp_path / "one", tmp_path / "two") == (["one", "two"], ["one/best", "two/best"])


def test_an_evaluation_of_the_same_weights_is_named_and_shown_once(tmp_path: Path):
    for name in ("base", "stage1"):
        write_evaluation(tmp_path / name, {"a": "one"}, mark="same")
    (found,) = find_sources([tmp_path]).evaluations
    assert found.note == "stage1 has the same weights and results as base. "


def test_a_folder_without_a_run_and_a_title_that_there_is_not_are_refused(tmp_path: Path):
    write_metrics(tmp_path / "new", [])
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/new: no metrics of an update .* \(ckpts\.save_dir\)"):
        find_sources([tmp_path / "new"])
    write_evaluation(tmp_path / "base", {"a": "one"})
    with pytest.raises(ValueError, match="--before stage1: no evaluation has this title; found base"):
        find_sources([tmp_path], "stage1")


def test_samples_of_a_run_have_the_rows_of_the_best_and_the_worst_one(tmp_path: Path):
    write_samples(write_metrics(tmp_path, updates(3)), 3)
    (run,) = find_sources([tmp_path]).trainings
    assert sampled_updates(run) == [3]
    found = {clip.title: clip.row.get("reward") for clip in rollout_clips(run, 3)}
    assert found == {"best of its group": 0.75, "worst of its group": 0.25, "recording": 0.25}
