from __future__ import annotations

import copy
import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR

from f5_tts.config.load import compose_config
from f5_tts.config.schema import EmaConfig, OptimConfig, TrainConfig
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import ModelSpec, read_checkpoint
from f5_tts.train import loop
from f5_tts.train.accelerator import build_accelerator
from f5_tts.train.alarms import ALARMS
from f5_tts.train.build import build_ema
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.loop import merge_metrics, no_validation, register_grad_scaler, update_seed
from f5_tts.train.metrics_log import MetricsLog
from f5_tts.train.train_state import TrainState
from f5_tts.types import LossOutput

RATE = 0.1
AVERAGE = EmaConfig(beta=0.5, update_after_step=0, update_every=1, power=1.0, device=None)
Loss = Callable[[CFM, Tensor], Iterator[LossOutput]]


class Line(DiT):
    """Backbone of one parameter: y = w x."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.w = nn.Parameter(torch.zeros(()))
        self.proj_out_ln_sig = None


def squared_error(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
    """Yield the mean of (y - w x)² over the item's points; its rows are x and y."""
    x, y = item
    loss = (y - policy.transformer.get_parameter("w") * x).square().mean()
    yield LossOutput(loss=loss, metrics={"loss": loss.item()})


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Run:
    """Run that fits w x = y by gradient descent at rate 0.1, with one update per item.

    `options` change the optim section.
    """

    def __init__(self, folder: Path, **options: float) -> None:
        config = compose_config("F5TTS_Mini", [f"ckpts.save_dir={folder}"], TrainConfig)
        self.folder, self.ckpts = folder, config.ckpts
        self.optim: OptimConfig = replace(config.optim, max_grad_norm=1e9)
        self.optim = replace(self.optim, **options)
        self.model = CFM(Line())
        optimizer = SGD(self.model.parameters(), lr=RATE)
        average = build_ema(self.model, AVERAGE)
        self.state = TrainState(
            model=self.model,
            spec=ModelSpec(model={}, vocabulary=[" "]),
            ema=average,
            optimizer=optimizer,
            scheduler=LambdaLR(optimizer, lambda update: 1.0),
            objective="mse",
        )

    def fit(
        self,
        items: list[Any],
        loss: Callable[[CFM, Any], Iterator[LossOutput]] = squared_error,
        total: int = 100,
        validate: Callable[[TrainState], dict[str, float]] = no_validation,
        accelerator: Accelerator | None = None,
        stop_alarm: str | None = None,
    ) -> bool:
        run = loop.LoopContext(
            accelerator=accelerator or Accelerator(cpu=True),
            checkpoints=CheckpointDir(self.ckpts),
            metrics_log=MetricsLog(self.folder, first=self.state.update, total=total, title="test", alarms=ALARMS),
            optim=self.optim,
            total=total,
            stop_alarm=stop_alarm,
        )
        return loop.fit(self.state, self.model, iter(items), loss, run, validate=validate)

    @property
    def w(self) -> float:
        return self.model.transformer.get_parameter("w").item()

    def rows(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


def points(*pairs: tuple[float, float]) -> Tensor:
    return torch.tensor(pairs).T


def test_the_slices_of_an_items_loss_add_up(tmp_path):
    def in_slices(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        for point in item.T:
            (whole,) = squared_error(policy, point[:, None])
            yield LossOutput(loss=whole.loss / item.shape[1], metrics=whole.metrics)

    run = Run(tmp_path)
    run.fit([points((1.0, 1.0), (2.0, 2.0))], in_slices)
    assert run.w == pytest.approx(0.5)
    assert run.rows()[0]["loss"] == pytest.approx(2.5)


def test_each_slice_is_differentiated_before_the_next_is_computed(tmp_path):
    seen: list[bool] = []

    def watched(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        for _ in range(2):
            seen.append(policy.transformer.get_parameter("w").grad is None)
            yield from squared_error(policy, item)

    Run(tmp_path).fit([points((1.0, 1.0))], watched)
    assert seen == [True, False]


def test_gradients_are_scaled_down_to_the_highest_norm(tmp_path):
    run = Run(tmp_path, max_grad_norm=0.5)
    run.fit([points((1.0, 1.0))])
    assert run.w == pytest.approx(0.5 * RATE, rel=1e-4)
    assert run.rows()[0]["grad_norm"] == pytest.approx(2.0)


def test_a_run_ends_at_its_total_and_with_its_items(tmp_path):
    run = Run(tmp_path)
    assert run.fit([points((1.0, 1.0))] * 5, total=3)
    assert run.state.update == 3
    assert run.fit([points((1.0, 1.0))] * 5, total=100)
    assert run.state.update == 8


def test_every_update_is_reported_with_its_norm_rate_and_time(tmp_path):
    run = Run(tmp_path)
    run.fit([points((1.0, 1.0))] * 2)
    assert [row["update"] for row in run.rows()] == [1, 2]
    assert all(row["lr"] == RATE and row["time/update"] > 0 for row in run.rows())


def test_the_reported_rate_is_the_one_that_was_used(tmp_path):
    run = Run(tmp_path)
    run.state.scheduler = LambdaLR(run.state.optimizer, lambda update: 1 / (1 + update))
    run.fit([points((1.0, 1.0))] * 2)
    assert [row["lr"] for row in run.rows()] == pytest.approx([RATE, RATE / 2])


def test_the_running_average_follows_every_update(tmp_path):
    """Use updates that set w to 0.2 and 0.36. The average starts as a copy of the first, and is then updated."""
    run = Run(tmp_path)
    run.fit([points((1.0, 1.0))] * 2)
    average = run.state.ema.state_dict()["ema_model.transformer.w"].item()
    assert run.w == pytest.approx(0.36)
    assert 0.2 < average < 0.36


def times(factor: float, *updates: int) -> Loss:
    """Return a loss that multiplies the squared error by `factor` in these updates, counted from 0."""
    made = count()

    def loss(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        by = factor if next(made) in updates else 1.0
        for output in squared_error(policy, item):
            yield LossOutput(loss=output.loss * by, metrics={"loss": output.loss.item() * by, "loss/kl": 0.25})

    return loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_whose_loss_is_not_finite_is_skipped_counted_and_said(tmp_path, capsys, value: float):
    """Expect steps of 0.2, 0.16 and 0.128, the second one skipped. w is then 0.2, 0.2, 0.36."""
    run = Run(tmp_path)
    run.fit([points((1.0, 1.0))] * 3, times(value, 1))
    assert run.w == pytest.approx(0.36)
    assert [row["health/nonfinite_skips"] for row in run.rows()] == [0, 1, 1]
    assert [row["loss"] for row in run.rows()] == [1.0, None, pytest.approx(0.64)]
    output = capsys.readouterr().out
    assert f"update 2 skipped, 1 in a row of at most optim.max_skips=10: loss is {value} after update 1 (" in output
    assert output.count("skipped") == 1


def test_of_a_skipped_update_counter_schedule_and_average_go_on_and_weights_and_optimizer_stay(tmp_path):
    run = Run(tmp_path)
    run.state.optimizer = optimizer = AdamW(run.model.parameters(), lr=RATE)
    run.state.scheduler = LambdaLR(optimizer, lambda update: 1 / (1 + update))
    run.fit([points((1.0, 1.0))], times(math.nan), total=1)
    w, moments = run.w, copy.deepcopy(optimizer.state_dict()["state"])
    run.fit([points((1.0, 1.0))], times(math.nan, 0), total=2)
    assert run.w == w and optimizer.state_dict()["state"] == moments
    assert run.state.update == 2 and run.state.ema.state_dict()["step"] == 2
    assert run.rows()[-1]["lr"] == pytest.approx(RATE / 2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(RATE / 3)


def test_a_gradient_that_is_not_finite_does_not_reach_weights_or_files(tmp_path):
    """Use √(w²) at w = 0: the loss is 0, its derivative 0 / 0."""

    def cusp(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        loss = policy.transformer.get_parameter("w").square().sqrt()
        yield LossOutput(loss=loss, metrics={"loss": loss.item()})

    run = Run(tmp_path)
    run.fit([points((1.0, 1.0))], cusp)
    saved = torch.load(tmp_path / "model_last.pt", weights_only=True)
    assert run.w == 0 and saved["model_state_dict"]["transformer.w"] == 0
    assert saved["ema_model_state_dict"]["ema_model.transformer.w"] == 0
    assert saved["skips"] == {"total": 1, "in_a_row": 1}
    assert run.rows()[0]["grad_norm"] is None


def test_slices_of_opposite_infinity_are_no_finite_loss(tmp_path):
    def opposite(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        for factor in (math.inf, -math.inf):
            for output in squared_error(policy, item):
                yield LossOutput(loss=output.loss * factor, metrics={"loss": factor})

    run = Run(tmp_path)
    run.fit([points((1.0, 1.0))], opposite)
    assert run.w == 0 and run.state.skips.total == 1


@pytest.mark.parametrize("most", [0, 2])
def test_one_skip_too_many_in_a_row_stops_the_run_with_files_as_they_were(tmp_path, most: int):
    run = Run(tmp_path, max_skips=most)
    with pytest.raises(
        FloatingPointError, match=rf"loss is nan after update {most} \(loss=nan, loss/kl=0\.25\); try a"
    ):
        run.fit([points((1.0, 1.0))] * 5, times(math.nan, *range(5)))
    assert run.w == 0 and len(run.rows()) == most
    assert not list(tmp_path.glob("*.pt"))


OFTEN = {"save_per_updates": 1, "last_per_updates": 1, "keep_last_n_checkpoints": 1}


def saved_updates(folder: Path) -> dict[str, int]:
    """Return the update of each checkpoint in a folder."""
    return {path.name: read_checkpoint(path).update for path in sorted(folder.glob("*.pt"))}


def test_while_updates_are_skipped_nothing_is_saved_over_and_the_error_names_what_is_left(tmp_path):
    run = Run(tmp_path, max_skips=3)
    run.ckpts = replace(run.ckpts, **OFTEN)
    with pytest.raises(
        FloatingPointError,
        match=r"after update 5 .*model_last\.pt and model_2\.pt and model_1\.pt in .* are from before",
    ):
        run.fit([points((1.0, 1.0))] * 9, times(math.nan, *range(2, 9)))
    assert saved_updates(tmp_path) == {"model_1.pt": 1, "model_2.pt": 2, "model_last.pt": 2}


def breaks(weight: float, update: int) -> Loss:
    """Return a loss of the user's that sets w in this update, counted from 0, after its gradient is there."""
    made = count()

    def loss(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        yield from squared_error(policy, item)
        if next(made) == update:
            policy.transformer.get_parameter("w").data.fill_(weight)

    return loss


def test_weights_that_an_update_breaks_and_a_save_that_is_due_at_it_leave_the_files_before(tmp_path):
    """w is infinite after the third update, at which its own save is due; the gradient was finite."""
    run = Run(tmp_path)
    run.ckpts = replace(run.ckpts, **OFTEN)
    expected = r"model_state_dict\.transformer\.w holds numbers that are NaN.* after update 3; .*model_2\.pt"
    with pytest.raises(FloatingPointError, match=expected):
        run.fit([points((1.0, 1.0))] * 9, breaks(math.inf, 2))
    assert saved_updates(tmp_path) == {"model_2.pt": 2, "model_last.pt": 2}


def test_an_update_that_makes_all_later_ones_fail_costs_no_numbered_file_from_before_it(tmp_path):
    """w = 1e30 is finite, its squared error is not."""
    run = Run(tmp_path, max_skips=3)
    run.ckpts = replace(run.ckpts, **OFTEN)
    with pytest.raises(FloatingPointError, match=r"loss is inf .*model_3\.pt and model_2\.pt in .* are from before"):
        run.fit([points((1.0, 1.0))] * 9, breaks(1e30, 2))
    assert saved_updates(tmp_path)["model_2.pt"] == 2


@pytest.mark.parametrize("weight", [math.nan, 1e30])
def test_a_run_that_ends_with_broken_weights_saves_nothing_over_what_is_from_before(tmp_path, weight: float):
    run = Run(tmp_path)
    run.ckpts = replace(run.ckpts, **OFTEN)
    if math.isnan(weight):
        with pytest.raises(FloatingPointError, match=r"after update 3; .*model_last\.pt and model_2\.pt"):
            run.fit([points((1.0, 1.0))] * 3, breaks(weight, 2))
        assert saved_updates(tmp_path) == {"model_2.pt": 2, "model_last.pt": 2}
    else:
        run.fit([points((1.0, 1.0))] * 4, breaks(weight, 2))
        assert saved_updates(tmp_path) == {"model_2.pt": 2, "model_3.pt": 3, "model_4.pt": 4, "model_last.pt": 3}


def test_a_save_that_is_due_at_a_skipped_update_follows_at_the_next_one(tmp_path):
    run = Run(tmp_path)
    run.ckpts = replace(run.ckpts, save_per_updates=2, last_per_updates=1000)
    run.fit([points((1.0, 1.0))] * 4, times(math.nan, 1))
    assert saved_updates(tmp_path) == {"model_3.pt": 3, "model_4.pt": 4, "model_last.pt": 4}


def test_a_run_that_ends_while_updates_are_skipped_is_saved_beside_what_is_from_before(tmp_path, capsys):
    run = Run(tmp_path)
    run.ckpts = replace(run.ckpts, **OFTEN)
    run.fit([points((1.0, 1.0))] * 3, times(math.nan, 2))
    assert saved_updates(tmp_path) == {"model_1.pt": 1, "model_2.pt": 2, "model_3.pt": 3, "model_last.pt": 2}
    assert "model_last.pt is from before them, model_3.pt from after them" in capsys.readouterr().out


def test_only_skips_in_a_row_stop_a_run(tmp_path):
    run = Run(tmp_path, max_skips=1)
    run.fit([points((1.0, 1.0))] * 6, times(math.nan, 0, 2, 4))
    assert run.state.update == 6 and run.state.skips.total == 3


def test_a_resumed_run_counts_its_skips_on(tmp_path):
    run = Run(tmp_path, max_skips=2)
    run.fit([points((1.0, 1.0))] * 2, times(math.nan, 0, 1))
    later = Run(tmp_path, max_skips=2)
    later.state.resume(read_checkpoint(tmp_path / "model_last.pt"))
    with pytest.raises(FloatingPointError, match="after update 2"):
        later.fit([points((1.0, 1.0))], times(math.nan, 0))
    again = Run(tmp_path)
    again.state.resume(read_checkpoint(tmp_path / "model_last.pt"))
    again.fit([points((1.0, 1.0))], times(math.nan, 0))
    assert again.rows()[-1]["health/nonfinite_skips"] == 3


# --- fp16 ---


@pytest.fixture
def scaling() -> Iterator[Accelerator]:
    """Build the accelerator of an fp16 run on a CPU.

    accelerate keeps one precision per process, so its state is reset before and after.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = build_accelerator(compose_config("F5TTS_Mini", ["optim.mixed_precision=fp16"], TrainConfig))
    accelerator.scaler = torch.amp.GradScaler(accelerator.device.type, init_scale=8.0, growth_interval=2)
    yield accelerator
    AcceleratorState._reset_state(reset_partial_state=True)


class TooLarge(torch.autograd.Function):
    """Identity whose gradient becomes infinite above 10, as a number that fp16 cannot represent does."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad.masked_fill(grad.abs() > 10, math.inf)


def narrow(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
    """Yield the squared error, whose gradient overflows above 10."""
    x, y = item
    loss = (y - TooLarge.apply(policy.transformer.get_parameter("w") * x)).square().mean()
    yield LossOutput(loss=loss, metrics={"loss": loss.item()})


def test_a_scaled_loss_makes_the_updates_of_the_loss_itself_and_clips_the_same_norm(tmp_path, scaling):
    run = Run(tmp_path)
    run.fit([points((1.0, 1.0))] * 2, accelerator=scaling)
    assert run.w == pytest.approx(0.36)
    assert [row["grad_norm"] for row in run.rows()] == pytest.approx([2.0, 1.6])
    assert scaling.scaler is not None and scaling.scaler.get_scale() == 16  # the scale grew after two updates


def test_an_overflow_skips_its_update_lowers_the_scale_and_is_no_failure(tmp_path, scaling, capsys):
    """Use a gradient of -2 at 0: times 8 it is above 10, times 4 it is not.

    No skip is allowed, so an overflow must not count as one.
    """
    run = Run(tmp_path, max_skips=0)
    run.fit([points((1.0, 1.0))] * 3, narrow, accelerator=scaling)
    assert run.w == pytest.approx(0.36)
    assert [row["health/nonfinite_skips"] for row in run.rows()] == [1, 1, 1]
    assert capsys.readouterr().out.count("update 1 skipped: its gradient is too large for fp16") == 1


def test_while_gradients_overflow_nothing_is_saved(tmp_path, scaling):
    """Use a gradient of -2 at 0: times 8 it overflows, times 4 it does not."""
    run = Run(tmp_path)
    run.ckpts = replace(run.ckpts, **(OFTEN | {"keep_last_n_checkpoints": -1}))
    run.fit([points((1.0, 1.0))] * 2, narrow, accelerator=scaling)
    assert saved_updates(tmp_path) == {"model_2.pt": 2, "model_last.pt": 2}


def test_a_loss_that_is_not_finite_is_a_failure_in_fp16_too(tmp_path, scaling):
    with pytest.raises(FloatingPointError, match="loss is nan after update 0"):
        Run(tmp_path, max_skips=0).fit([points((1.0, 1.0))], times(math.nan, 0), accelerator=scaling)


def test_a_gradient_that_is_too_large_at_every_scale_stops_the_run(tmp_path, scaling):
    """Expect the scales 8, 4 and 2 to overflow. The next failure counts as a skip."""
    run = Run(tmp_path, max_skips=0)
    with pytest.raises(FloatingPointError, match="gradient norm is inf after update 3"):
        run.fit([points((1.0, 1e6))] * 9, narrow, accelerator=scaling)


def test_a_resumed_run_scales_its_loss_as_before(tmp_path, scaling):
    run = Run(tmp_path)
    register_grad_scaler(run.state, scaling)
    run.fit([points((1.0, 1.0))], narrow, accelerator=scaling)
    scaling.scaler = torch.amp.GradScaler("cpu")
    later = Run(tmp_path)
    register_grad_scaler(later.state, scaling)
    later.state.resume(read_checkpoint(tmp_path / "model_last.pt"))
    assert scaling.scaler.get_scale() == 4


# --- validation ---


def test_what_is_measured_joins_the_row_of_its_update_and_a_measure_before_the_first_is_row_0(tmp_path):
    def every_second(state: TrainState) -> dict[str, float]:
        return {} if state.update % 2 else {"eval/wer": 0.1 * state.update}

    run = Run(tmp_path)
    run.fit([points((1.0, 1.0))] * 3, validate=every_second)
    assert [row.get("eval/wer") for row in run.rows()] == [0.0, None, pytest.approx(0.2), None]
    assert run.rows()[0] == {"update": 0, "eval/wer": 0.0}
    assert run.rows()[2].keys() >= {"loss", "eval/wer", "time/update"}


def test_a_resumed_run_has_no_second_start(tmp_path):
    run = Run(tmp_path)
    run.state.update = 4
    run.fit([points((1.0, 1.0))], validate=lambda state: {"seen": float(state.update)})
    assert [row["seen"] for row in run.rows()] == [5.0]


# --- stops ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_is_obeyed_after_the_update_and_saved(tmp_path, number: signal.Signals):
    def interrupted(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        if run.state.update == 1:
            os.kill(os.getpid(), number)
        yield from squared_error(policy, item)

    run = Run(tmp_path)
    assert run.fit([points((1.0, 1.0))] * 9, interrupted) is False
    assert run.state.update == 2
    saved = torch.load(tmp_path / "model_last.pt", weights_only=True)
    assert saved["update"] == 2
    assert saved["model_state_dict"]["transformer.w"].item() == pytest.approx(run.w)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Make Ctrl-C raise, as it does in a terminal. A shell starts its background jobs with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_stop_is_obeyed_at_once(tmp_path, interruptible):
    def twice(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        yield from squared_error(policy, item)

    run = Run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.fit([points((1.0, 1.0))], twice)
    assert run.state.update == 0


def test_a_run_that_reached_its_total_is_finished_even_if_it_was_asked_to_stop(tmp_path):
    def interrupted(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        os.kill(os.getpid(), signal.SIGINT)
        yield from squared_error(policy, item)

    assert Run(tmp_path).fit([points((1.0, 1.0))], interrupted, total=1) is True


def test_the_end_of_a_terminal_stays_ignored_where_it_is(tmp_path):
    """nohup starts a program so."""

    def hangs_up(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        os.kill(os.getpid(), signal.SIGHUP)
        yield from squared_error(policy, item)

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run = Run(tmp_path)
    assert run.fit([points((1.0, 1.0))] * 3, hangs_up) and run.state.update == 3


def test_after_a_run_signals_do_what_they_did_before(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    Run(tmp_path).fit([points((1.0, 1.0))])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_an_update_draws_depends_on_the_seed_and_its_number_alone(tmp_path):
    def drawing(drawn: list[float]) -> Loss:
        def loss(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
            drawn.append(torch.rand(()).item())
            yield from squared_error(policy, item)

        return loss

    whole, resumed = [], []
    Run(tmp_path).fit([points((1.0, 1.0))] * 4, drawing(whole))
    later = Run(tmp_path)
    later.state.update = 2
    torch.rand(100)
    later.fit([points((1.0, 1.0))] * 2, drawing(resumed))
    assert resumed == whole[2:]
    assert len(set(whole)) == 4


def test_seeds_of_updates_and_of_runs_differ():
    assert len({update_seed(seed, update) for seed in range(10) for update in range(100)}) == 1000


def test_metrics_of_slices_are_averaged_and_the_largest_kept_where_the_name_says_max():
    merged = merge_metrics([{"loss": 1.0, "ratio/max_dev": 0.1, "only": 7.0}, {"loss": 2.0, "ratio/max_dev": 0.3}])
    assert merged == pytest.approx({"loss": 1.5, "ratio/max_dev": 0.3, "only": 7.0})
    assert merge_metrics([{"reward/max": 1.0}, {"reward/max": 3.0}]) == {"reward/max": 3.0}


def test_the_least_reward_of_several_items_is_the_least():
    assert merge_metrics([{"reward/min": 1.0}, {"reward/min": 3.0}]) == {"reward/min": 1.0}


def test_a_finished_run_says_so_and_leaves_its_files_alone(tmp_path, capsys):
    run = Run(tmp_path)
    run.state.update, run.state.settings = 3, {"the data set": "2 rows"}
    assert run.fit([points((1.0, 1.0))], total=3)
    assert "holds all 3 updates of this run (mse, 2 rows): nothing left to do" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.pt"))


# --- errors ---


def failing(error: Exception | SystemExit, update: int) -> Loss:
    """Return a loss that fails in this update, counted from 0, after a slice whose gradient is there."""
    made = count()

    def loss(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        yield from squared_error(policy, item)
        if next(made) == update:
            raise error

    return loss


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("voice"), KeyError),
        (ValueError("a reward says so"), ValueError),
        (SystemExit(0), ValueError),
    ],
)
def test_an_error_leaves_the_state_after_the_last_whole_update(tmp_path, capsys, error, expected):
    """Expect w to be 0.2 and 0.36 after two updates; the third fails with its gradient half made."""
    run = Run(tmp_path)
    with pytest.raises(expected) as raised:
        run.fit([points((1.0, 1.0))] * 9, failing(error, 2))
    saved = read_checkpoint(tmp_path / "model_last.pt")
    assert saved.update == 2 == run.rows()[-1]["update"]
    assert saved.payload["model_state_dict"]["transformer.w"].item() == pytest.approx(0.36)
    assert f"after update 2 is saved in {tmp_path / 'model_last.pt'}" in capsys.readouterr().out
    if isinstance(error, SystemExit):
        assert "called sys.exit(0), which would end the run" in str(raised.value)


def test_a_run_that_is_out_of_memory_is_saved_too(tmp_path):
    """The item is a list of one point, which is too small to be split."""

    class Point(list[Tensor]):
        num_entries = 1

        def split(self) -> list[Point]:
            return [self]

    def fills_the_gpu(policy: CFM, item: list[Point]) -> Iterator[LossOutput]:
        yield from squared_error(policy, item[0][0])
        if run.state.update == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    run = Run(tmp_path)
    with pytest.raises(MemoryError, match=r"lower rl\.mini_repeat_count"):
        run.fit([[Point([points((1.0, 1.0))])]] * 9, fills_the_gpu)
    assert read_checkpoint(tmp_path / "model_last.pt").update == 2


def test_a_run_goes_on_from_an_error_bit_for_bit(tmp_path):
    for name, fails_at in (("whole", 99), ("ended", 3)):
        (tmp_path / name).mkdir()
        run = Run(tmp_path / name)
        with suppress(KeyError):
            run.fit([points((1.0, 1.0))] * 6, failing(KeyError(), fails_at))
    again = Run(tmp_path / "ended")
    again.state.resume(read_checkpoint(tmp_path / "ended" / "model_last.pt"))
    again.fit([points((1.0, 1.0))] * 3)
    whole, ended = (torch.load(tmp_path / name / "model_last.pt", weights_only=True) for name in ("whole", "ended"))
    assert ended.keys() == whole.keys() and ended["update"] == 6
    assert torch.equal(ended["model_state_dict"]["transformer.w"], whole["model_state_dict"]["transformer.w"])
    assert [row["update"] for row in again.rows()] == [1, 2, 3, 4, 5, 6]


def test_an_error_after_an_update_loses_neither_the_update_nor_its_row(tmp_path):
    def judge(state: TrainState) -> dict[str, float]:
        if state.update == 2:
            raise RuntimeError("the judge fell off")
        return {}

    run = Run(tmp_path)
    with pytest.raises(RuntimeError, match="judge"):
        run.fit([points((1.0, 1.0))] * 4, validate=judge)
    assert read_checkpoint(tmp_path / "model_last.pt").update == 2 == run.rows()[-1]["update"]


def test_an_error_before_the_first_update_or_in_the_middle_of_one_saves_nothing(tmp_path):
    with pytest.raises(KeyError):
        Run(tmp_path).fit([points((1.0, 1.0))], failing(KeyError(), 0))
    run = Run(tmp_path)
    run.state.scheduler = LambdaLR(run.state.optimizer, lambda update: 1.0 / (2 - update))  # the weights are ahead
    with pytest.raises(ZeroDivisionError):
        run.fit([points((1.0, 1.0))] * 4)
    assert run.state.update == 1 and not list(tmp_path.glob("*.pt"))


def test_an_error_saves_no_weights_that_are_not_finite(tmp_path):
    def breaks(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        if run.state.update == 2:
            policy.transformer.get_parameter("w").data.fill_(math.nan)
            raise KeyError("broken")
        yield from squared_error(policy, item)

    run = Run(tmp_path)
    with pytest.raises(KeyError):
        run.fit([points((1.0, 1.0))] * 4, breaks)
    assert not list(tmp_path.glob("*.pt"))


def test_an_error_stays_the_error_where_the_state_cannot_be_saved(tmp_path, capsys):
    def fills_the_disk(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
        yield from squared_error(policy, item)
        if run.state.update == 1:
            (tmp_path / "model_last.pt").mkdir()
            (tmp_path / "model_last.pt" / "file").touch()
            raise KeyError("voice")

    run = Run(tmp_path)
    with pytest.raises(KeyError, match="voice"):
        run.fit([points((1.0, 1.0))] * 4, fills_the_disk)
    assert "an error ends the run; its state after update 1 cannot be saved: " in capsys.readouterr().out


# --- the alarm that ends a run ---


def better_and_better(policy: CFM, item: Tensor) -> Iterator[LossOutput]:
    """Yield the squared error, and a reward that rises with w."""
    for output in squared_error(policy, item):
        w = policy.transformer.get_parameter("w").item()
        yield replace(output, metrics=output.metrics | {"reward/mean": w})


def worse_and_worse(state: TrainState) -> dict[str, float]:
    """Return an error rate that rises by 0.1 an update."""
    return {"judge/wer": 0.1 * state.update}


def test_an_active_alarm_ends_a_run_saved_and_the_same_command_makes_no_more_updates(tmp_path, capsys):
    """Let w go from 0 towards 1; the mean reward has to be above that of the first five rows at two validations."""
    items = [points((1.0, 1.0))] * 30
    run = Run(tmp_path)
    assert run.fit(items, better_and_better, validate=worse_and_worse, stop_alarm="reward_hacked")
    ended = run.state.update
    assert 2 <= ended < 10
    assert read_checkpoint(tmp_path / "model_last.pt").update == ended == run.rows()[-1]["update"]
    assert run.rows()[-1]["health/alarm_reward_hacked"] == 1.0 and "health/alarm_reward_hacked" not in run.rows()[-2]
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith(f"the run ended after update {ended} of 100, because the alarm reward_hacked is active")

    again = Run(tmp_path)
    again.state.resume(read_checkpoint(tmp_path / "model_last.pt"))
    assert again.fit(items, better_and_better, validate=worse_and_worse, stop_alarm="reward_hacked")
    assert again.state.update == ended and f"the run ended after update {ended} of" in capsys.readouterr().out
    assert again.fit(items[:2], better_and_better, validate=worse_and_worse) and again.state.update == ended + 2


def test_an_alarm_that_does_not_end_the_run_only_warns(tmp_path, capsys):
    run = Run(tmp_path)
    run.fit([points((1.0, 1.0))] * 12, better_and_better, validate=worse_and_worse)
    assert run.state.update == 12 and "the run ended" not in capsys.readouterr().out


# --- gradients and weights of several ranks ---


class FakeRanks:
    """Accelerator of several ranks, each with this rank's gradients times its number, from 1."""

    num_processes = 3

    def __init__(self) -> None:
        self.reduced: list[Tensor] = []

    def reduce(self, values: Tensor, reduction: str) -> Tensor:
        assert reduction == "mean"
        self.reduced.append(values)
        return values * 2  # (1 + 2 + 3) / 3


def test_gradients_of_all_ranks_are_averaged_in_buckets(monkeypatch):
    """Use gradients of 40, 24, 8, 200 and 4 bytes, one of double precision, and buckets of 64 bytes."""
    sizes = [(5, 2), (6,), (2,), (50,), (1,)]
    layers = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    layers.append(torch.nn.Parameter(torch.zeros(3, dtype=torch.float64)))
    model = torch.nn.ParameterList([*layers, torch.nn.Parameter(torch.zeros(7))])  # the last one has no gradient
    for index, parameter in enumerate(layers):
        parameter.grad = torch.full_like(parameter, index + 1.0)
    monkeypatch.setattr(loop, "BUCKET_BYTES", 64)
    ranks = FakeRanks()
    loop.average_gradients(model, ranks)  # pyright: ignore[reportArgumentType]
    assert [part.nbytes for part in ranks.reduced] == [40 + 24, 8, 200, 4, 3 * 8]
    assert [parameter.grad.unique().tolist() for parameter in layers if parameter.grad is not None] == [
        [2.0 * (index + 1)] for index in range(6)
    ]


def test_weights_of_all_ranks_are_compared_at_first_now_and_then_and_before_each_save(tmp_path, monkeypatch):
    """Save every 30 updates; what is compared at the end is the state that is saved there."""
    run = Run(tmp_path)
    run.ckpts.last_per_updates, run.ckpts.save_per_updates = 30, 60
    compared: list[int] = []
    monkeypatch.setattr(loop, "check_weights_in_sync", lambda model, accelerator, update: compared.append(update) or {})
    run.fit([points((1.0, 1.0))] * 104, total=104)
    assert compared == [1, 30, 51, 60, 90, 101, 104]
