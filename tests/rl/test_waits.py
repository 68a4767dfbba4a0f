"""Waiting for a GPU: from the first learning pass to the optimizer step an update reads numbers once."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import f5_tts
from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import ModelSpec
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.rl.grpo import PolicyLoss
from f5_tts.train.build import build_ema
from f5_tts.train.infilling import InfillingLoss
from f5_tts.train.loop import train_update
from f5_tts.train.oom import OomRetry
from f5_tts.train.train_state import TrainState
from f5_tts.types import ExperienceBatch

WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}
PACKAGE = Path(f5_tts.__file__).parent


class Waits(TorchDispatchMode):
    """Counter of the operators whose result a GPU must give to Python, while `is_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_on, self.found = False, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        has_flags = name in ("index", "index_put_") and any(
            isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1])
        )
        if name in WAITS or has_flags:
            self.add(name)
        return func(*args, **(kwargs or {}))

    def add(self, name: str) -> None:
        if self.is_on:
            self.found.append(name)


@pytest.fixture
def waits(monkeypatch) -> Iterator[Waits]:
    """Count what waits; `tolist` of a CPU tensor is no operator, and is counted by its name."""
    counter, tolist = Waits(), Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: counter.add("tolist") or tolist(self))
    with counter:
        yield counter


def state_of(model: CFM, waits: Waits, optim: Any) -> TrainState:
    """Build the state of a run that counts from the first pass of the model to the step of the optimizer."""
    optimizer = SGD(model.parameters(), lr=0.1)
    model.register_forward_pre_hook(lambda *inputs: setattr(waits, "is_on", True))
    optimizer.register_step_pre_hook(lambda *inputs: setattr(waits, "is_on", False))
    return TrainState(
        model=model,
        spec=ModelSpec(model={}, vocabulary=[" "]),
        ema=build_ema(model, optim.ema),
        optimizer=optimizer,
        scheduler=LambdaLR(optimizer, lambda update: 1.0),
        objective="grpo",
    )


def update_of(model: CFM, waits: Waits, item: list[Any], loss: Callable[..., Any]) -> dict[str, float]:
    """Make one update of the loop and return its metrics."""
    optim = compose_config("F5TTS_Mini", [], TrainConfig).optim
    state = state_of(model, waits, optim)
    metrics = train_update(state, model, item, loss, Accelerator(cpu=True), optim, OomRetry(print))
    assert not waits.is_on, "the optimizer has made its step"
    return metrics


@pytest.mark.parametrize("algorithm", ["gaussian_grpo", "flow_grpo", "nft", "draft", "f5r"])
def test_an_update_of_stage_2_waits_once_before_its_step(rl, policy, batch, waits, algorithm: str):
    shared = algorithm not in ("nft", "draft")
    settings = ["repeat_count=2", "mini_repeat_count=2", "anchor_weight=0.1", "cfg_strength=1.0"]
    config = rl(f"algorithm={algorithm}", f"shared_noise={shared}", "steps=4", "window.size=2", *settings)
    rollouts = list(find_algorithm(algorithm).draw(policy, batch, config))
    gradient = torch.ones_like(rollouts[0].mel) if algorithm == "draft" else None
    metrics = {"draft/loss": 0.0}
    experience = [
        ExperienceBatch(
            rollout=part, advantages=torch.randn(4), loss_weight=0.5, metrics=metrics, mel_gradient=gradient
        )
        for part in rollouts
    ]
    reference = lambda *inputs, **options: policy(*inputs, **options)  # noqa: E731
    seen = update_of(policy, waits, experience, PolicyLoss(config, reference))
    assert waits.found == ["tolist"]
    assert algorithm == "f5r" or seen["loss/kl"] == pytest.approx(0, abs=1e-6)  # its reference draws other samples
    assert seen["grad_norm"] > 0 and type(seen["loss"]) is type(seen["grad_norm"]) is float


@pytest.mark.parametrize("objective", ["mse", "gaussian_nll"])
def test_an_update_of_stage_1_waits_once_before_its_step(policy, batch, waits, objective: str):
    model = compose_config("F5TTS_Mini", [], TrainConfig).model
    model = replace(model, objective=objective, mel_spec=replace(model.mel_spec, n_mel_channels=batch.mel.shape[2]))
    update_of(policy, waits, [batch, batch], InfillingLoss(model))
    assert waits.found == ["tolist"]


def test_the_counter_sees_what_waits(waits):
    x = torch.arange(4.0)
    waits.is_on = True
    found = [x.sum().item(), bool(x.any()), x[x > 1], x.tolist(), torch.unique(x), x.nonzero(), x[:2] + 1]
    assert len(found) == 7
    assert waits.found == ["_local_scalar_dense"] * 2 + ["index", "tolist", "_unique2", "nonzero"]


# --- in the source ---

LEARNING = {
    "model/backbones/dit.py": (),
    "model/backbones/layers.py": (),
    "model/backbones/unett.py": (),
    "model/cfm.py": (),
    "model/losses.py": (),
    "rl/draft.py": ("differentiated_grid",),
    "rl/f5r.py": ("sample_gradient_steps",),
    "rl/gaussian.py": (),
    "rl/nft.py": (),
    "rl/policy_gradient.py": (),
    "train/infilling.py": ("__call__",),  # before its first pass
}  # file -> functions that run before the first pass
READS = {"item", "tolist", "nonzero", "numpy", "cpu", "unique", "masked_select"}


@pytest.mark.parametrize(("file", "before"), LEARNING.items())
def test_code_that_learns_reads_no_tensor(file: str, before: tuple[str, ...]):
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name not in before]
    calls = [node.func for function in functions for node in ast.walk(function) if isinstance(node, ast.Call)]
    assert [call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr in READS] == []
