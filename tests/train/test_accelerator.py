from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from accelerate.state import AcceleratorState
from tests.tiny import tiny_arch
from tests.train.test_train_state import train_state
from torch import nn
from torch.optim import AdamW, Optimizer

from f5_tts.config.load import compose_config
from f5_tts.config.schema import OptimConfig, RLTrainConfig, TrainConfig
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.model.precision import bf16_unit, product_seconds
from f5_tts.train.accelerator import build_accelerator, log_on_main, precision, prepare_model
from f5_tts.train.optimizer import choose_optimizer

CPU = torch.device("cpu")
AVX = ("_is_avx512_bf16_supported",)
PRODUCT, AND_SINGLE = "since a matrix product takes", "and 12 ms in single precision"


def run_with(**changes: str | bool) -> TrainConfig:
    return compose_config("F5TTS_Mini", [f"optim.{key}={value}" for key, value in changes.items()], TrainConfig)


@pytest.fixture
def optim() -> OptimConfig:
    return compose_config("F5TTS_Mini", [], TrainConfig).optim


@pytest.fixture
def new_process() -> Iterator[None]:
    """Restore the process-wide precision settings after the test.

    accelerate keeps one precision per process, and torch one way to multiply matrices.
    """
    before = torch.get_float32_matmul_precision()
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def faster_in_bf16(monkeypatch) -> None:
    """Let the processor be ten times as fast in bf16."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr("f5_tts.train.accelerator.default_device", lambda: CPU)
    monkeypatch.setattr("f5_tts.model.precision.bf16_unit", lambda device: "AMX")
    monkeypatch.setattr("f5_tts.model.precision.product_seconds", lambda: (10.0, 1.0))


# --- precision ---


@pytest.mark.parametrize(
    ("asked", "variable", "found"),
    [
        ("launcher", None, "no"),
        ("launcher", "", "no"),
        ("launcher", "bf16", "bf16"),
        ("auto", "FP16", "fp16"),
        ("auto", "no", "no"),
        ("no", "bf16", "no"),
        ("fp16", None, "fp16"),
    ],
)
def test_precision_is_the_configs_or_that_of_the_environment(optim, monkeypatch, asked, variable, found):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if variable is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", variable)
    assert precision(replace(optim, mixed_precision=asked)) == found


@pytest.mark.parametrize(
    ("units", "half", "chosen", "said"),
    [
        ((), 1, "no", "single precision, on a cpu without one of AMX, AVX-512 BF16"),
        (AVX, 10, "bf16", f"bf16, {PRODUCT} 10 ms in bf16 by AVX-512 BF16 {AND_SINGLE}"),  # 1.2 times as fast
        (AVX, 10.1, "no", f"single precision, {PRODUCT} 10.1 ms in bf16 by AVX-512 BF16 {AND_SINGLE}"),
        (("_is_amx_tile_supported", *AVX), 2, "bf16", f"bf16, {PRODUCT} 2 ms in bf16 by AMX {AND_SINGLE}"),
    ],
)
def test_auto_takes_bf16_where_a_unit_is_clearly_faster_in_it_and_says_so(
    optim, monkeypatch, capsys, units, half: float, chosen: str, said: str
):
    monkeypatch.setattr("f5_tts.model.precision.product_seconds", lambda: (0.012, half / 1000))
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr("f5_tts.train.accelerator.default_device", lambda: CPU)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in units, raising=False)
    for variable, seen in ((None, [f"optim.mixed_precision=auto: {said}"]), ("1", [])):  # rank 1 says nothing
        if variable is not None:
            monkeypatch.setenv("RANK", variable)
        assert precision(replace(optim, mixed_precision="auto"), log_on_main) == chosen
        assert capsys.readouterr().out.splitlines() == seen


def test_a_product_is_measured_in_both_precisions_once_per_process():
    measured = product_seconds()
    assert all(0 < seconds < 60 for seconds in measured)
    assert product_seconds() is measured


@pytest.mark.parametrize("before", ["no", "bf16"])
@pytest.mark.usefixtures("new_process", "faster_in_bf16")
def test_a_resumed_run_goes_on_in_the_precision_that_auto_chose_at_its_start(tmp_path, capsys, before: str):
    run = train_state("mse")
    run.settings = {"optim.mixed_precision": before}
    torch.save(run.payload(), tmp_path / "model_last.pt")
    cfg = compose_config("F5TTS_Mini", ["optim.mixed_precision=auto", f"ckpts.save_dir={tmp_path}"], TrainConfig)
    assert build_accelerator(cfg).mixed_precision == cfg.optim.mixed_precision == before
    before = "single precision" if before == "no" else before
    assert capsys.readouterr().out == f"optim.mixed_precision=auto: {before}, as before\n"


@pytest.mark.usefixtures("new_process", "faster_in_bf16")
@pytest.mark.parametrize(
    ("objective", "saved"), [("grpo", "no"), ("mse", "auto"), ("mse", "launcher"), ("mse", None), ("mse", 7)]
)
def test_a_new_run_and_one_that_does_not_say_what_it_had_choose_for_themselves(tmp_path, objective: str, saved):
    run = train_state(objective)
    run.settings = {} if saved is None else {"optim.mixed_precision": saved}
    torch.save(run.payload(), tmp_path / "model_last.pt")
    cfg = compose_config("F5TTS_Mini", ["optim.mixed_precision=auto", f"ckpts.save_dir={tmp_path}"], TrainConfig)
    assert build_accelerator(cfg).mixed_precision == cfg.optim.mixed_precision == "bf16"


@pytest.mark.parametrize("variable", ["fp16", "bf16", "no"])
def test_a_precision_of_the_launcher_that_the_config_overrules_is_said(optim, monkeypatch, variable: str):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", variable)
    said: list[str] = []
    assert precision(replace(optim, mixed_precision="bf16"), said.append) == "bf16"
    overruled = "ACCELERATE_MIXED_PRECISION=fp16 of the launcher has no effect, since optim.mixed_precision=bf16; "
    assert said == [overruled + "optim.mixed_precision=launcher takes its value"] * (variable == "fp16")


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_other_devices_compute_in_single_precision(kind: str):
    assert bf16_unit(torch.device(kind)) is None


def test_configs_with_published_results_name_their_precision():
    configs = [compose_config("F5TTS_Mini", [], TrainConfig)]
    configs += [compose_config(f"F5TTS_Mini_{name}", [], RLTrainConfig) for name in ("RL", "Draft")]
    assert [cfg.optim.mixed_precision for cfg in configs] == ["no"] * 3


def test_a_precision_that_is_none_is_refused_with_its_variable_and_those_that_are(optim, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match=r"ACCELERATE_MIXED_PRECISION=fp8 .* allowed: no or fp16 or bf16"):
        precision(replace(optim, mixed_precision="auto"))


@pytest.mark.parametrize(("chosen", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.usefixtures("new_process")
def test_a_model_computes_in_the_chosen_precision_and_answers_in_single(chosen: str, dtype: torch.dtype):
    accelerator = build_accelerator(run_with(mixed_precision=chosen))
    model = prepare_model(CFM(DiT(tiny_arch(), mel_dim=6, num_tokens=9, gaussian=True)), accelerator)
    seen: list[torch.dtype] = []
    model.transformer.proj_out.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    x = torch.randn(1, 5, 6, device=accelerator.device)
    velocity = model(x, x, torch.zeros(1, 3, dtype=torch.long, device=x.device), torch.tensor(0.5, device=x.device))
    assert velocity.ln_sigma is not None
    assert seen == [dtype] and velocity.mean.dtype == velocity.ln_sigma.dtype == torch.float32
    assert (accelerator.scaler is not None) == (chosen == "fp16")


@pytest.mark.usefixtures("new_process")
@pytest.mark.parametrize(("tf32", "found"), [(True, "high"), (False, "highest")])
def test_tf32_is_set_by_the_command(tf32: bool, found: str):
    build_accelerator(run_with(tf32=tf32))
    assert torch.get_float32_matmul_precision() == found


@pytest.mark.usefixtures("new_process")
def test_one_process_is_not_divided():
    with pytest.raises(ValueError, match=r"optim\.shard=true .* this is the only one: start several \(python -m torch"):
        build_accelerator(run_with(shard=True))


# --- the optimizer ---


def fitted(optimizer_of, updates: int = 30) -> tuple[nn.Linear, Optimizer, list[float]]:
    """Train a layer of 4096 weights and a bias towards zero output; return layer, optimizer and losses."""
    torch.manual_seed(0)
    layer, losses = nn.Linear(64, 64), []
    x = torch.randn(16, 64)
    optimizer = optimizer_of(layer.parameters(), lr=1e-2)
    for _ in range(updates):
        loss = layer(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return layer, optimizer, losses


@pytest.mark.slow
def test_eight_bits_learn_as_all_bits_do(optim):
    """Compare the losses of 30 updates, within 5 %.

    Tensors of 4096 numbers have 8-bit states, smaller ones 32-bit states.
    """
    make = choose_optimizer(replace(optim, bnb_optimizer=True), CPU, lambda line: pytest.fail(line))
    layer, optimizer, losses = fitted(make)
    assert type(optimizer).__name__ == "AdamW8bit"
    states = [optimizer.state[parameter]["state1"].dtype for parameter in layer.parameters()]
    assert states == [torch.uint8, torch.float32]
    assert losses == pytest.approx(fitted(partial(AdamW, fused=True))[2], rel=0.05)
    assert losses[-1] < losses[0] / 5


def test_without_being_asked_torchs_adamw_it_is(optim):
    _, optimizer, _ = fitted(choose_optimizer(replace(optim, bnb_optimizer=False), CPU), 1)
    assert type(optimizer) is AdamW and optimizer.defaults["fused"]


def test_where_bitsandbytes_cannot_take_a_step_one_warning_says_so_and_torchs_adamw_works(optim):
    """Use the meta device, on which bitsandbytes cannot take a step. Older releases of it cannot take one on a CPU."""
    messages: list[str] = []
    make = choose_optimizer(replace(optim, bnb_optimizer=True), torch.device("meta"), messages.append)
    assert isinstance(make([nn.Parameter(torch.zeros(3))], lr=0.1), AdamW)
    (line,) = messages
    assert line.startswith("warning: optim.bnb_optimizer=true: bitsandbytes ")
    assert "does not work on meta here (" in line and "torch's AdamW is used instead" in line


def test_without_bitsandbytes_the_extras_are_named(optim, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r'needs bitsandbytes: pip install -e "\.\[bnb\]"'):
        choose_optimizer(replace(optim, bnb_optimizer=True), CPU)
