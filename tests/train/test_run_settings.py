from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.test_train_state import after, train_state

from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig
from f5_tts.data.rows import Row
from f5_tts.model.checkpoint import read_checkpoint
from f5_tts.threads import SET_BY_USER
from f5_tts.train import run_settings
from f5_tts.train.run_settings import THREADS, describe_rows, describe_threads, settings_of

ROWS = [Row(audio_path=f"{n}.wav", text=text, duration=1.5, speaker="x") for n, text in enumerate(["one", "two"])]


def settings(*overrides: str) -> dict[str, Any]:
    return settings_of(compose_config("F5TTS_Mini_RL", list(overrides), RLTrainConfig))


def resume(folder: Path, saved: dict[str, Any], current: dict[str, Any], **options: Any) -> list[str]:
    """Save a run with some settings and resume it with others; return what is said."""
    run = after(train_state("grpo"), 1)
    run.settings = saved
    torch.save(run.payload(), folder / "model_last.pt")
    resumed, messages = train_state(options.pop("objective", "grpo")), []
    resumed.settings, resumed.allow_changed = current, options.pop("allow_changed", False)
    resumed.resume(read_checkpoint(folder / "model_last.pt"), messages.append)
    return [line for line in messages if "from here on" in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("optim.seed", "666", "7"),
        ("optim.ema.beta", "0.999", "0.5"),
        ("optim.grad_accumulation_steps", "1", "2"),
        ("optim.max_updates", "180", "400"),
        ("datasets.batch_size_per_gpu", "4", "8"),
        ("rl.mini_repeat_count", "8", "4"),
        ("rl.updates_per_rollout", "1", "2"),
        ("rl.rewards.mode", "gdpo", "sum"),
        ("rl.rewards.providers.0.weight", "1.0", "0.25"),
        ("model.arch.dropout", "0.1", "0.0"),
    ],
)
def test_each_key_that_changes_the_result_is_one_line(tmp_path, key: str, old: str, new: str):
    before = settings(f"{key}={old}")
    assert resume(tmp_path, before, settings(f"{key}={new}")) == [f"{key} is {new} from here on; before it was {old}"]
    assert resume(tmp_path, before, before) == []


def test_another_list_of_rewards_is_said_entry_by_entry(tmp_path):
    one, two = (
        settings(f"rl.rewards.providers=[{names}]") for names in ("{name: clicks}", "{name: clicks}, {name: clipping}")
    )
    lines = resume(tmp_path, one, two)
    assert "rl.rewards.providers.1.name is clipping from here on; before it was absent" in lines
    assert all(line.startswith("rl.rewards.providers.1.") for line in lines)


def test_keys_that_leave_the_result_as_it_is_and_those_that_are_compared_elsewhere_are_not_said(tmp_path):
    changes = ["ckpts.save_per_updates=7", "datasets.num_workers=3", "rl.rewards.overlap=false", "eval.steps=4"]
    changes += ["datasets.name=other", "rl.rewards.providers.0.worker={python: x}", "optim.learning_rate=1e-3"]
    changes += ["model.arch.dim=64", "lora.rank=4"]
    assert resume(tmp_path, settings(), settings(*changes)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (settings("rl.algorithm=nft"), settings("rl.algorithm=flow_grpo")),
        (describe_rows(ROWS), describe_rows(ROWS[:1])),
        (describe_rows(ROWS), describe_rows([ROWS[0], replace(ROWS[1], text="three")])),
    ],
)
def test_another_algorithm_or_data_set_is_another_run_and_needs_permission(tmp_path, old, new):
    with pytest.raises(
        ValueError, match=r"is of another run: .* from here on; before it was .*ckpts\.init_from=.*"
    ) as e:
        resume(tmp_path, old, new)
    assert "with ckpts.allow_changed=true" in str(e.value)
    assert len(resume(tmp_path, old, new, allow_changed=True)) == 1
    assert resume(tmp_path, old, new, objective="gaussian_nll") == []  # a start


@pytest.fixture
def free_to_choose(monkeypatch):
    """Let nobody have chosen the number of threads, on a machine of four cores; restore it then."""
    before = torch.get_num_threads()
    for name in SET_BY_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(run_settings, "usable_cpus", lambda: 4)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("saved", [3, 1])
def test_a_run_goes_on_with_its_number_of_threads(tmp_path, free_to_choose, saved: int):
    current = describe_threads()
    assert current == {THREADS: 1}
    assert resume(tmp_path, {THREADS: saved}, current) == []
    assert torch.get_num_threads() == saved == current[THREADS]


@pytest.mark.parametrize("saved", [5, 0, -2, "2", True])
def test_a_number_of_threads_that_there_cannot_be_is_not_taken(tmp_path, free_to_choose, saved: Any):
    lines = resume(tmp_path, {THREADS: saved}, describe_threads())
    assert torch.get_num_threads() == 1
    assert lines == ([] if saved is True else [f"{THREADS} is 1 from here on; before it was {saved}"])  # True == 1


def test_a_number_of_threads_that_the_user_has_set_is_kept_and_the_change_is_said(
    tmp_path, free_to_choose, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    lines = resume(tmp_path, {THREADS: 2}, describe_threads())
    assert torch.get_num_threads() == 1 and lines == [f"{THREADS} is 1 from here on; before it was 2"]


def test_a_checkpoint_without_a_number_of_threads_is_not_compared(tmp_path):
    assert resume(tmp_path, settings(), settings() | describe_threads()) == []


def test_a_data_set_in_another_folder_is_the_same():
    assert describe_rows([replace(row, audio_path=f"/other/{row.audio_path}") for row in ROWS]) == describe_rows(ROWS)


def test_a_checkpoint_of_an_older_version_or_one_whose_data_are_not_read_is_not_compared(tmp_path):
    run = after(train_state("grpo"), 1)
    torch.save({key: value for key, value in run.payload().items() if key != "settings"}, tmp_path / "model_last.pt")
    resumed = train_state("grpo")
    resumed.settings = settings() | describe_rows(ROWS)
    resumed.resume(read_checkpoint(tmp_path / "model_last.pt"), lambda line: None)
    assert resumed.update == 1
    assert resume(tmp_path, settings() | describe_rows(ROWS), settings()) == []
