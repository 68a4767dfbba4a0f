from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ema_pytorch import EMA
from tests.tiny import tiny_arch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from f5_tts.config.checks import check, raise_together
from f5_tts.config.load import compose_config
from f5_tts.config.schema import EmaConfig, RLTrainConfig, TrainConfig, dataset_dir
from f5_tts.data.rows import Row, read_rows
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.train.build import build_ema, build_plan, epoch_counter, unpair_unknown
from f5_tts.train.optimizer import check_schedule, learning_rate_factor

REPOSITORY = Path(__file__).parents[2]

ROWS = "rows_(update,step,initted,ema)"


def ema_settings(run: str) -> EmaConfig:
    """Return the EMA settings of a golden run.

    They are those of ema-pytorch in the published model's config, or ones with faster decay.
    """
    if run == "ema_default":
        return compose_config("F5TTS_v1_Base", [], TrainConfig).optim.ema
    return EmaConfig(beta=0.99, update_after_step=3, update_every=1, power=2 / 3, device=None)


@pytest.fixture
def model() -> CFM:
    arch = tiny_arch(dim=16, depth=1, heads=1, dim_head=4, ff_mult=1, text_dim=2, conv_layers=0)
    return CFM(DiT(arch, mel_dim=2, num_tokens=2))


def fill(model: CFM, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


@pytest.mark.parametrize("run", range(3))
def test_learning_rates_are_the_published_schedules_to_nine_digits(run, table):
    expected = table("g9_ema_lr")["lr"][run]
    warmup, total = expected["warmup_updates"], expected["total_updates"]
    optimizer = AdamW([torch.nn.Parameter(torch.zeros(1))], lr=expected["base"])
    scheduler = LambdaLR(optimizer, lambda update: learning_rate_factor(update, warmup, total))
    rates = []
    for _ in expected["lr_before_update_i"]:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(expected["lr_before_update_i"], rel=1e-9, abs=1e-18)


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_the_end():
    factors = [learning_rate_factor(update, 4, 12) for update in range(15)]
    rise, fall = [0, 0.25, 0.5, 0.75], [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert factors == pytest.approx([*rise, *fall, 0, 0, 0], abs=2e-8)
    assert min(factors) > 0


def test_without_a_warm_up_the_first_update_has_the_whole_rate():
    assert learning_rate_factor(0, 0, 10) == 1


@pytest.mark.parametrize("warmup", [12, 50])
def test_a_warm_up_that_would_not_end_is_refused_with_both_numbers(warmup: int):
    optim = replace(compose_config("F5TTS_Mini", [], TrainConfig).optim, num_warmup_updates=warmup)
    with pytest.raises(
        ValueError, match=rf"num_warmup_updates={warmup} does not end before the run, which has 12 updates"
    ):
        check_schedule(optim, 12)
    check_schedule(optim, warmup + 1)


def test_a_run_without_updates_is_refused_even_without_a_warm_up():
    optim = replace(
        compose_config("F5TTS_Mini", [], TrainConfig).optim, num_warmup_updates=0, grad_accumulation_steps=4
    )
    with pytest.raises(ValueError, match=r"grad_accumulation_steps=4: the data set has too few batches for one update"):
        check_schedule(optim, 0)


@pytest.mark.parametrize("run", ["ema_default", "ema_fast"])
def test_the_running_average_is_ema_pytorchs_within_1e_6_after_every_update(run, model, table):
    """Set all weights to the number of the update."""
    rows = {row[0]: row[1:] for row in table("g9_ema_lr")[run][ROWS]}
    names = [f"ema_model.{name}" for name, _ in model.named_parameters()]
    average = build_ema(model, ema_settings(run))
    for update in range(1, max(rows) + 1):
        fill(model, float(update))
        average.update()
        if update in rows:
            step, initted, value = rows[update]
            state = average.state_dict()
            assert (state["step"].item(), state["initted"].item()) == (step, initted)
            for name in names:
                expected = torch.full_like(state[name], value)
                torch.testing.assert_close(state[name], expected, rtol=1e-6, atol=0)


def test_the_running_averages_names_are_those_of_published_checkpoints(model):
    keys = build_ema(model, ema_settings("ema_default")).state_dict().keys()
    assert keys == {f"ema_model.{name}" for name in model.state_dict()} | {"initted", "step"}


def averaged(average: EMA) -> dict[str, Tensor]:
    """Return the tensors of the EMA model."""
    return {name: value for name, value in average.state_dict().items() if name.startswith("ema_model.")}


def test_the_running_average_lives_where_it_is_asked_to_and_follows_a_model_elsewhere(model):
    """Use the meta device as the other one. It accepts values and stores none."""
    fill(model, 3.0)
    average = build_ema(model, replace(ema_settings("ema_fast"), device="meta"))
    for _ in range(6):  # the first updates copy, later ones average
        average.update()
    assert {value.device.type for value in averaged(average).values()} == {"meta"}
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_average_on_the_cpu_of_a_model_on_the_gpu_is_the_same(model):
    here, there = model, deepcopy(model).cuda()
    averages = [build_ema(part, replace(ema_settings("ema_fast"), device="cpu")) for part in (here, there)]
    for update in range(9):
        for part, average in zip((here, there), averages, strict=True):
            fill(part, float(update))
            average.update()
    torch.testing.assert_close(averaged(averages[0]), averaged(averages[1]), rtol=1e-6, atol=0)


def test_an_epoch_is_a_pass_over_the_data_set(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    changes = ["datasets.name=mini", "datasets.batch_size_type=sample", "datasets.batch_size_per_gpu=4"]
    cfg = compose_config("F5TTS_Mini", changes, TrainConfig)
    plan = build_plan(cfg, read_rows(dataset_dir(cfg)))
    epoch, batches = epoch_counter(plan), len(plan.epoch(0))
    assert [epoch(read) for read in (0, 3)] == pytest.approx([0, 3 / batches])
    assert epoch(batches) == 1 and epoch(2 * batches + 1) == pytest.approx(2 + 1 / len(plan.epoch(2)))


def rows_of(*speakers: str | None) -> list[Row]:
    return [Row(audio_path="a.wav", text="a", duration=1.0, speaker=name, columns={}) for name in speakers]


def test_without_speakers_prompts_are_cut_from_the_clips_and_it_is_said():
    cfg, said = compose_config("F5TTS_Mini_RL", [], RLTrainConfig), []
    unpair_unknown(cfg, rows_of(None, None), said.append)
    assert (cfg.datasets.pair_speakers, cfg.rl.prompt_frac_range) == (False, [0.1, 0.3])
    check(cfg)
    (line,) = said
    assert line.startswith("no row names its speaker (column speaker or speaker_id or client_id or spk): ")
    assert "datasets.pair_speakers=false rl.prompt_frac_range=[0.1, 0.3]" in line and "None" not in line


def test_stage_1_without_speakers_gets_no_prompts():
    cfg, said = compose_config("F5TTS_Mini", [], TrainConfig), []
    unpair_unknown(cfg, rows_of(None), said.append)
    assert not cfg.datasets.pair_speakers and said[0].endswith("spk): datasets.pair_speakers=false")


@pytest.mark.parametrize("speakers", [("x", None), ("x",)])
def test_with_any_speaker_pairs_stay_asked_for(speakers: tuple[str | None, ...]):
    cfg = compose_config("F5TTS_Mini_RL", [], RLTrainConfig)
    unpair_unknown(cfg, rows_of(*speakers), pytest.fail)
    assert cfg.datasets.pair_speakers and cfg.rl.prompt_frac_range is None


def fail_with(error: Exception) -> None:
    raise error


def test_checks_that_are_run_together_tell_all_that_they_found():
    with pytest.raises(ValueError, match=r"^2 problems\n1\. no a\n2\. b is odd$"):
        raise_together(lambda: fail_with(FileNotFoundError("no a")), int, lambda: fail_with(ValueError("b is odd")))
    with pytest.raises(FileNotFoundError, match=r"^no a$"):
        raise_together(int, lambda: fail_with(FileNotFoundError("no a")))
    raise_together(int)
