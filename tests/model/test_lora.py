"""LoRA by peft: trained weights, model outputs, and saved files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_arch
from torch import Tensor, nn

from f5_tts.config.load import compose_config
from f5_tts.config.schema import LoraConfig, RLTrainConfig, TrainConfig
from f5_tts.data.tokenizer import EMILIA_VOCAB, read_vocabulary
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.backbones.unett import UNetT
from f5_tts.model.build import build_model
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import export_weights, load_weights, published_tensors, read_checkpoint, write_checkpoint
from f5_tts.model.heads import Velocity
from f5_tts.model.lora import (
    adapter_weights,
    add_adapters,
    check_same_lora,
    load_with_adapters,
    lora_settings,
    merged_weights,
    target_layers,
    with_zero_adapters,
)
from f5_tts.model.snapshot import Snapshot

MEL_BINS, RANK = 6, 3


def settings(*changes: str) -> LoraConfig:
    return compose_config(
        "F5TTS_Mini_RL", [f"lora.rank={RANK}", *(f"lora.{change}" for change in changes)], RLTrainConfig
    ).lora


def model(backbone: Any = DiT, *, gaussian: bool = True) -> CFM:
    """Build a small model with random weights everywhere."""
    torch.manual_seed(0)
    made = CFM(backbone(tiny_arch(), MEL_BINS, num_tokens=9, gaussian=gaussian)).eval()
    return perturbed(made, list(made.parameters()))


def adapted(*changes: str, backbone: Any = DiT, gaussian: bool = True) -> CFM:
    made = model(backbone, gaussian=gaussian)
    add_adapters(made, settings(*changes), lambda line: None)
    return made


@torch.no_grad()
def perturbed(made: CFM, parameters: list[nn.Parameter]) -> CFM:
    for parameter in parameters:
        parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def trained(made: CFM) -> CFM:
    """Change all trainable weights, as training may."""
    torch.manual_seed(1)
    return perturbed(made, [parameter for parameter in made.parameters() if parameter.requires_grad])


def said(policy: Callable[..., Velocity]) -> Tensor:
    """Compute mean and log standard deviation of the velocity at one point."""
    torch.manual_seed(2)
    x, cond, text = torch.randn(2, 12, MEL_BINS), torch.randn(2, 12, MEL_BINS), torch.tensor([[1, 2, 3], [4, 5, -1]])
    with torch.no_grad():
        velocity = policy(x, cond, text, torch.tensor([0.2, 0.7]), torch.arange(12) < torch.tensor([[12], [9]]))
    return torch.stack([velocity.mean, velocity.mean if velocity.ln_sigma is None else velocity.ln_sigma])


# --- trained weights ---


def test_rank_0_leaves_the_model_as_it_is():
    plain = model()
    add_adapters(plain, settings("rank=0"))
    assert plain.state_dict().keys() == model().state_dict().keys()
    assert all(parameter.requires_grad for parameter in plain.parameters())


@pytest.mark.slow
def test_adapters_and_the_gaussian_head_alone_are_trained():
    """Count rank (in + out) weights per layer.

    Each of two blocks has four layers from 32 to 32 and two between 32 and 64.
    """
    made, lines = model(), []
    add_adapters(made, settings(), lines.append)
    names = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    head = {"transformer.proj_out_ln_sig.weight", "transformer.proj_out_ln_sig.bias"}
    assert names == adapter_weights(made).keys() | head
    num = 2 * RANK * (4 * (32 + 32) + 2 * (32 + 64))
    assert sum(value.numel() for value in adapter_weights(made).values()) == num
    assert lines == [
        f"LoRA of rank 3 on 12 layers: {num + 33 * MEL_BINS:,} of "
        f"{num + sum(parameter.numel() for parameter in model().parameters()):,} weights are trained"
    ]


@pytest.mark.slow
def test_a_deterministic_model_trains_adapters_alone():
    made = adapted(gaussian=False)
    names = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert names == adapter_weights(made).keys()


def test_a_target_without_a_layer_is_refused_with_names_that_there_are():
    with pytest.raises(ValueError, match=r"lora\.target_modules has to_qq, .* attn\.to_q, .* ff\.ff\.2, .*\.proj_out"):
        adapted("target_modules=[to_v,to_qq]")


@pytest.mark.parametrize("target", ["proj_out_ln_sig", "conv1d.0", "o_q"])
def test_the_head_convolutions_and_parts_of_names_are_no_targets(target: str):
    with pytest.raises(ValueError, match=rf"lora\.target_modules has {target}"):
        adapted(f"target_modules=[{target}]")


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[lora\]"'):
        adapted()


# --- outputs ---


@pytest.mark.parametrize("backbone, config", [(DiT, "F5TTS_RL"), (UNetT, "E2TTS_Base_RL")])
def test_the_default_targets_are_attention_and_feed_forward_of_both_backbones(backbone, config: str):
    targets = compose_config(config, [], RLTrainConfig).lora.target_modules
    made = model(backbone)
    found, depth = target_layers(made, targets), tiny_arch().depth
    assert len(found) == 6 * depth and all(name.endswith(tuple(targets)) for name in found)
    others = [name for name, layer in made.named_modules() if isinstance(layer, nn.Linear) and name not in found]
    assert not any(".attn." in name or ".ff." in name for name in others)


def test_earlier_default_targets_name_the_same_layers():
    old, new = ([*targets, "to_q"] for targets in (["ff.ff.0.0", "ff.ff.2"], ["ff.0.0", "ff.2"]))
    assert target_layers(model(DiT), old) == target_layers(model(DiT), new)
    saved = {"rank": 4, "alpha": 8.0, "target_modules": old}
    check_same_lora(Path("a.pt"), saved, {"rank": 4, "alpha": 8.0, "target_modules": sorted(new)})


@pytest.mark.parametrize("backbone, targets", [(DiT, "[to_q,ff.ff.2,proj]"), (UNetT, "[to_q,layers.1.0,ff.2]")])
def test_new_adapters_change_nothing_and_trained_ones_do(backbone, targets: str):
    made = adapted(f"target_modules={targets}", backbone=backbone)
    assert torch.equal(said(made), said(model(backbone)))
    before = said(made)
    assert not torch.allclose(said(trained(made)), before, atol=1e-2)


def test_a_snapshot_of_new_adapters_is_the_base_model_and_holds_no_second_one():
    made = adapted()
    reference = Snapshot(made)
    trained(made)
    assert torch.equal(said(reference), said(model()))
    held = sum(value.numel() for value in reference.tensors.values())
    assert held == sum(value.numel() for value in adapter_weights(made).values()) + 33 * MEL_BINS


# --- saved files ---


@pytest.mark.parametrize("backbone, targets", [(DiT, "[to_q,to_out.0,ff.ff.2]"), (UNetT, "[to_q,layers.1.0,ff.2]")])
def test_merged_weights_say_what_weights_and_adapters_say_under_published_names(backbone, targets: str):
    made, plain = trained(adapted(f"target_modules={targets}", backbone=backbone)), model(backbone)
    plain.load_state_dict(merged_weights(made))
    assert list(merged_weights(made)) == list(plain.state_dict())
    torch.testing.assert_close(said(plain), said(made), atol=1e-5, rtol=0)


def test_merging_changes_targets_and_head_alone():
    before, after = model().state_dict(), merged_weights(trained(adapted("target_modules=[to_q]")))
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    targets = {f"transformer.transformer_blocks.{block}.attn.to_q.weight" for block in (0, 1)}
    assert changed == targets | {"transformer.proj_out_ln_sig.weight", "transformer.proj_out_ln_sig.bias"}


def test_the_change_is_alpha_by_rank_times_b_a():
    made = trained(adapted("target_modules=[transformer_blocks.1.attn.to_q]", "alpha=12"))
    a, b = adapter_weights(made).values()
    name = "transformer.transformer_blocks.1.attn.to_q.weight"
    change = merged_weights(made)[name] - model().state_dict()[name]
    torch.testing.assert_close(change, 12 / RANK * b @ a, atol=1e-6, rtol=0)


def test_without_adapters_merged_weights_are_the_state():
    plain, state = model(), model().state_dict()
    assert list(merged_weights(plain)) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in merged_weights(plain).items())
    assert adapter_weights(plain) == {}


def test_a_model_goes_back_to_what_was_written_bit_for_bit():
    made, again = trained(adapted()), adapted()
    load_with_adapters(again, merged_weights(made), adapter_weights(made))
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())


def test_plain_weights_fit_beside_adapters_that_then_change_nothing():
    made, other = trained(adapted()), perturbed(model(), list(model().parameters()))
    made.load_state_dict(with_zero_adapters(made, other.state_dict()))
    assert torch.equal(said(made), said(other))


@pytest.mark.parametrize(
    "change, found", [("rank=2", "2"), ("rank=0", "0"), ("alpha=5", "5.0"), ("target_modules=[to_q]", r'\["to_q"\]')]
)
def test_other_adapters_than_a_checkpoint_has_are_refused(tmp_path, change: str, found: str):
    there, key = lora_settings(settings()), change.partition("=")[0]
    with pytest.raises(ValueError, match=rf"was trained with lora\.{key}=.*, this run has {found}: set it to"):
        check_same_lora(tmp_path, there, lora_settings(settings(change)))


def test_adapters_beside_a_checkpoint_without_are_refused_and_the_order_of_targets_is_free(tmp_path):
    with pytest.raises(ValueError, match=r"was trained with lora\.rank=0, this run has 3"):
        check_same_lora(tmp_path, lora_settings(None), lora_settings(settings()))
    one, other = (lora_settings(settings(f"target_modules=[{names}]")) for names in ("to_q,to_k", "to_k,to_q"))
    check_same_lora(tmp_path, one, other)


@pytest.mark.parametrize(
    "name, changes", [("F5TTS_v1_Base", []), ("E2TTS_Base", ["target_modules=[to_q,ff.0.0,ff.2]"])]
)
def test_an_export_of_merged_weights_has_the_names_and_shapes_of_the_published_file(name, changes: list[str], table):
    expected = table("g1_state_dicts")[name]["model_state_dict"]
    gaussian = ["model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true"]
    with torch.device("meta"):
        made = build_model(compose_config(name, gaussian, TrainConfig).model, read_vocabulary(EMILIA_VOCAB, "pinyin"))
        add_adapters(made, settings("rank=16", *changes), lambda line: None)
    result = {key: list(value.shape) for key, value in published_tensors(merged_weights(made), torch.float16).items()}
    assert result == {f"ema_model.{key}": shape for key, shape in expected.items()} | {"initted": [], "step": []}


def test_an_exported_file_speaks_as_the_adapters_did(tmp_path):
    made, plain = trained(adapted(gaussian=False)), model(gaussian=False)
    write_checkpoint(tmp_path / "a.pt", {"model_state_dict": merged_weights(made), "update": 4})
    export_weights(read_checkpoint(tmp_path / "a.pt"), tmp_path / "a.safetensors", torch.float32)
    load_weights(plain, read_checkpoint(tmp_path / "a.safetensors"))
    torch.testing.assert_close(said(plain), said(made), atol=1e-5, rtol=0)
