"""Structural changes to a valid checkpoint: a run is refused in a sentence, starts from the weights, or resumes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.test_train_state import after, assert_equal, folder, train_state

from f5_tts.model.checkpoint import read_checkpoint
from f5_tts.rl.advantage import RunningBaseline
from f5_tts.rl.nft import EmaPolicy
from f5_tts.train.checkpoint_dir import initial_weights
from f5_tts.train.train_state import TrainState
from f5_tts.train.validation import Best

EMA, OPTIMIZER, SCHEDULE = "ema_model_state_dict", "optimizer_state_dict", "scheduler_state_dict"
RAW, OLD, BEST, BASELINE = "model_state_dict", "old_policy_state_dict", "best_state_dict", "baseline_state_dict"
BIAS = "transformer.proj_out.bias"  # of two numbers
Change = Callable[[dict[str, Any]], object]
nan = float("nan")


def run(seed: int = 0) -> TrainState:
    """Build a run with all kinds of states that a checkpoint holds."""
    state = train_state(seed=seed)
    baseline = RunningBaseline({"a": 1.0}, {"a": 0.0}, clip=5.0)
    state.stateful = {"old_policy": EmaPolicy(state.model, 0.5), "best": Best("eval/wer", "x"), "baseline": baseline}
    return state


@cache
def saved() -> tuple[dict[str, Any], int]:
    """Return the payload of a run after three updates, and the index of a matrix that is not square."""
    state = after(run(), 3)
    baseline = state.stateful["baseline"]
    baseline.load_state_dict({"a": [8.0, 0.5, 0.3]})
    shapes = [value.shape for value in state.model.parameters()]
    return state.payload(), next(i for i, shape in enumerate(shapes) if len(shape) == 2 and shape[0] != shape[1])


def copied(value: Any) -> Any:
    """Copy the containers of a nested state; tensors are shared."""
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    return [copied(entry) for entry in value] if isinstance(value, list) else value


def put(value: Any, *path: Any) -> Change:
    """Return a change that sets an entry."""

    def change(payload: dict[str, Any]) -> None:
        for key in path[:-1]:
            payload = payload[key]
        payload[path[-1]] = value

    return change


def drop(*path: Any) -> Change:
    """Return a change that deletes an entry."""

    def change(payload: dict[str, Any]) -> None:
        for key in path[:-1]:
            payload = payload[key]
        del payload[path[-1]]

    return change


def moment(edit: Callable[[torch.Tensor], Any], name: str = "exp_avg") -> Change:
    """Return a change of one state of the matrix in the optimizer."""
    return lambda payload: put(edit(saved()[0][OPTIMIZER]["state"][saved()[1]][name]), *where(), name)(payload)


def where() -> tuple[Any, ...]:
    return OPTIMIZER, "state", saved()[1]


def average(edit: Callable[[torch.Tensor], Any]) -> Change:
    """Return a change of one tensor of the average."""
    name = f"ema_model.{BIAS}"
    return lambda payload: put(edit(payload[EMA][name]), EMA, name)(payload)


REFUSED: dict[str, Change] = {
    "no update": drop("update"),
    "a negative update": put(-5, "update"),
    "update a text": put("3", "update"),
    "update a fraction": put(3.0, "update"),
    "update true": put(True, "update"),
    "update of 70 bits": put(2**70, "update"),
    "update ahead of the schedule": put(9, "update"),
    "no average": drop(EMA),
    "an empty average": put({}, EMA),
    "average a list": put([1], EMA),
    "average with NaN": average(lambda value: value * nan),
    "average with a negative step": put(torch.tensor(-1), EMA, "step"),
    "average with a step of NaN": put(torch.tensor(nan), EMA, "step"),
    "no raw weights": drop(RAW),
    "raw weights with infinity": put(torch.full((2,), float("inf")), RAW, BIAS),
    "raw weights of another shape": put(torch.zeros(3), RAW, BIAS),
    "no schedule": drop(SCHEDULE),
    "an empty schedule": put({}, SCHEDULE),
    "schedule a text": put("warm", SCHEDULE),
    "schedule at a text": put("3", SCHEDULE, "last_epoch"),
    "schedule at another update": put(2, SCHEDULE, "last_epoch"),
    "no rate": drop(SCHEDULE, "base_lrs"),
    "a rate of NaN": put([nan], SCHEDULE, "base_lrs"),
    "a rate in words": put(["high"], SCHEDULE, "base_lrs"),
    "skips with another key": put({"total": 1, "in_a_row": 0, "x": 1}, "skips"),
    "skips a text": put("none", "skips"),
    "negative skips": put({"total": -1, "in_a_row": 0}, "skips"),
    "bad rows in lists": put([[1]], "bad_rows"),
    "bad rows a text": put("12", "bad_rows"),
    "an old policy with a sparse tensor": put(torch.eye(2).to_sparse(), OLD, "tensors", BIAS),
    "an old policy without values": put(torch.empty(2, device="meta"), OLD, "tensors", BIAS),
    "negative bad rows": put([-1], "bad_rows"),
    "an empty origin": put({}, "origin"),
    "an origin elsewhere": put({"file": "../reference.pt", "sha256": "0"}, "origin"),
    "origin a number": put(3, "origin"),
    "no processes": put(0, "processes"),
    "processes a text": put("two", "processes"),
    "adapters a text": put("lora", "lora"),
    "adapters without a part": put({"settings": {"rank": 0}, "raw": {}}, "lora"),
    "objective a number": put(3, "objective"),
    "optimizer a list": put([], OPTIMIZER),
    "class of the optimizer a number": put(3, "optimizer_class"),
    "another recommendation": put("best", "recommended"),
    "vocabulary of numbers": put([1, 2], "vocabulary"),
    "tensors in the model section": put(torch.zeros(2), "model", "arch"),
    "moments with NaN": moment(lambda value: value * nan),
    "negative squares": moment(lambda value: -value - 1, "exp_avg_sq"),
    "a negative step of a moment": moment(lambda value: value - 9, "step"),
    "old policy of another shape": put(torch.zeros(3), OLD, "tensors", BIAS),
    "old policy with NaN": put(torch.full((2,), nan), OLD, "tensors", BIAS),
    "old policy without a tensor": drop(OLD, "tensors", BIAS),
    "old policy of negative rollouts": put(-1, OLD, "rollouts"),
    "best a text": put("best", BEST),
    "best without its value": drop(BEST, "value"),
    "best of NaN": put(nan, BEST, "value"),
    "baseline a number": put(3, BASELINE),
    "baseline of too few numbers": put([1.0], BASELINE, "a"),
    "baseline of infinity": put([1.0, float("inf"), 1.0], BASELINE, "a"),
}

STARTS: dict[str, Change] = {
    "no optimizer": drop(OPTIMIZER),
    "no objective": drop("objective"),
    "another stage": put("mse", "objective"),
    "an empty optimizer": put({}, OPTIMIZER),
    "states a list": put([], OPTIMIZER, "state"),
    "states of three numbers": moment(lambda value: torch.zeros(3)),
    "transposed states": moment(lambda value: value.T.contiguous()),
    "states in half precision": moment(lambda value: value.half()),
    "states expanded from one number": moment(lambda value: torch.zeros(1, 1).expand(value.shape)),
    "a state without an entry": lambda payload: drop(*where(), "exp_avg_sq")(payload),
    "a state with another entry": lambda payload: put(torch.zeros(2), *where(), "max_exp_avg_sq")(payload),
    "a state's step a text": moment(lambda value: "3", "step"),
    "a state of another tensor": put({}, OPTIMIZER, "state", 10**6),
    "a state by name": put({}, OPTIMIZER, "state", "bias"),
    "no groups": drop(OPTIMIZER, "param_groups"),
    "groups of texts": put(["a"], OPTIMIZER, "param_groups"),
    "a group of fewer tensors": put([0, 1], OPTIMIZER, "param_groups", 0, "params"),
    "average of another shape": average(lambda value: torch.zeros(3)),
    "average in half precision": average(lambda value: value.half()),
    "average without a tensor": drop(EMA, f"ema_model.{BIAS}"),
    "adapters of another run": put({"settings": {"rank": 0}, "raw": {"a": torch.zeros(2)}, "ema": {}}, "lora"),
}

RESUMES: dict[str, Change] = {
    "nothing": lambda payload: None,
    "other betas": put((0.0, 2.0), OPTIMIZER, "param_groups", 0, "betas"),
    "no betas": drop(OPTIMIZER, "param_groups", 0, "betas"),
    "another rate of the optimizer": put("high", OPTIMIZER, "param_groups", 0, "lr"),
    "an optimizer in the schedule": put("me", SCHEDULE, "optimizer"),
    "other functions of the schedule": drop(SCHEDULE, "lr_lambdas"),
    "no skips": drop("skips"),
    "no number of processes": drop("processes"),
    "no class of the optimizer": drop("optimizer_class"),
    "an entry of a later release": put([1], "extra"),
}


def resume(change: Change, path: Path) -> tuple[TrainState, list[str]]:
    """Resume from a file with a change; return the run and what it said."""
    payload = copied(saved()[0])
    change(payload)
    torch.save(payload, path / "model_last.pt")
    resumed, messages = run(seed=1), []
    checkpoint = folder(path).find_latest(pretrained=True)
    assert checkpoint is not None
    initial_weights(checkpoint)
    resumed.resume(checkpoint, messages.append)
    return resumed, messages


def test_at_least_34_changes_are_tried():
    assert len(REFUSED) + len(STARTS) + len(RESUMES) >= 34


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_state_is_refused_in_a_sentence_that_names_the_file(name: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"model_last\.pt") as refusal:
        resume(REFUSED[name], tmp_path)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTS)
def test_a_state_that_does_not_fit_gives_the_weights_alone_and_that_is_said(name: str, tmp_path: Path):
    started, messages = resume(STARTS[name], tmp_path)
    assert_equal(started.model.state_dict(), saved()[0][RAW])
    assert started.update == 0 and started.optimizer.state_dict()["state"] == {}
    assert messages[-1].startswith("starting gaussian_nll from the raw weights of")
    after(started, 1)


@pytest.mark.parametrize("name", RESUMES)
def test_what_is_left_out_or_not_used_changes_nothing(name: str, tmp_path: Path):
    resumed, messages = resume(RESUMES[name], tmp_path)
    assert_equal(resumed.payload(), saved()[0])
    assert messages[-1] == f"resuming {tmp_path / 'model_last.pt'} at update 3"


def test_tensors_without_a_state_are_counted(tmp_path: Path):
    resumed, messages = resume(lambda payload: drop(*where())(payload), tmp_path)
    num = len(list(resumed.model.parameters()))
    assert f"has optimizer states of {num - 1} of {num} trained tensors: the others have none" in messages[0]
    after(resumed, 1)


def test_a_component_without_its_state_starts_again_and_that_is_said(tmp_path: Path):
    _, messages = resume(drop(OLD), tmp_path)
    assert messages[0] == f"{tmp_path / 'model_last.pt'} holds no state of old_policy: it starts again"


def test_the_file_of_this_folders_own_run_does_not_start_another_one(tmp_path: Path):
    """With its initial weights in the folder, a run of stage 2 would compare with those of the other one."""
    own = after(train_state("grpo"), 1)
    folder(tmp_path).save_initial_weights(train_state("grpo"))
    own.initial_weights = {"file": "reference.pt", "sha256": "0"}
    payload = copied(own.payload())
    payload[OPTIMIZER]["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(payload, tmp_path / "model_last.pt")
    with pytest.raises(ValueError, match=r"cannot be resumed: the optimizer state of .* name it in ckpts\.init_from"):
        train_state("grpo").resume(read_checkpoint(tmp_path / "model_last.pt"))
