"""The map of names and the head on random weights; the published file is not at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from f5_tts.rewards.speaker import wavlm_sim
from f5_tts.rewards.speaker.wavlm_sim import WavlmSim, renamed
from f5_tts.types import RewardInput

RATE = 16_000
UNILM = {  # names in the published file, as UniLM's WavLM.py and ecapa_tdnn.py define them -> names here
    "feature_weight": "feature_weight",
    "feature_extract.model.mask_emb": "trunk.masked_spec_embed",
    "feature_extract.model.layer_norm.weight": "trunk.feature_projection.layer_norm.weight",
    "feature_extract.model.post_extract_proj.bias": "trunk.feature_projection.projection.bias",
    "feature_extract.model.feature_extractor.conv_layers.0.0.weight": (
        "trunk.feature_extractor.conv_layers.0.conv.weight"
    ),
    "feature_extract.model.feature_extractor.conv_layers.1.2.1.bias": (
        "trunk.feature_extractor.conv_layers.1.layer_norm.bias"
    ),
    "feature_extract.model.encoder.layer_norm.weight": "trunk.encoder.layer_norm.weight",
    "feature_extract.model.encoder.pos_conv.0.weight_g": (
        "trunk.encoder.pos_conv_embed.conv.parametrizations.weight.original0"
    ),
    "feature_extract.model.encoder.layers.1.self_attn.grep_linear.weight": (
        "trunk.encoder.layers.1.attention.gru_rel_pos_linear.weight"
    ),
    "feature_extract.model.encoder.layers.1.self_attn.grep_a": "trunk.encoder.layers.1.attention.gru_rel_pos_const",
    "feature_extract.model.encoder.layers.0.self_attn.relative_attention_bias.weight": (
        "trunk.encoder.layers.0.attention.rel_attn_embed.weight"
    ),
    "feature_extract.model.encoder.layers.1.self_attn.q_proj.bias": "trunk.encoder.layers.1.attention.q_proj.bias",
    "feature_extract.model.encoder.layers.1.self_attn_layer_norm.bias": "trunk.encoder.layers.1.layer_norm.bias",
    "feature_extract.model.encoder.layers.1.fc1.weight": (
        "trunk.encoder.layers.1.feed_forward.intermediate_dense.weight"
    ),
    "feature_extract.model.encoder.layers.1.fc2.bias": "trunk.encoder.layers.1.feed_forward.output_dense.bias",
    "feature_extract.model.encoder.layers.1.final_layer_norm.bias": "trunk.encoder.layers.1.final_layer_norm.bias",
    "layer2.Res2Conv1dReluBn.convs.6.weight": "layer2.Res2Conv1dReluBn.convs.6.weight",
}
BACK = {  # parts of names here -> in the file, for the tests' own files
    "feature_projection.layer_norm.": "layer_norm.",
    "feature_projection.projection.": "post_extract_proj.",
    "masked_spec_embed": "mask_emb",
    "pos_conv_embed.conv.bias": "pos_conv.0.bias",
    "pos_conv_embed.conv.parametrizations.weight.original0": "pos_conv.0.weight_g",
    "pos_conv_embed.conv.parametrizations.weight.original1": "pos_conv.0.weight_v",
    ".attention.gru_rel_pos_linear.": ".self_attn.grep_linear.",
    ".attention.gru_rel_pos_const": ".self_attn.grep_a",
    ".attention.rel_attn_embed.": ".self_attn.relative_attention_bias.",
    ".attention.": ".self_attn.",
    ".feed_forward.intermediate_dense.": ".fc1.",
    ".feed_forward.output_dense.": ".fc2.",
}


def written(name: str) -> str:
    """Return the name of a tensor in the published file."""
    if not name.startswith("trunk."):
        return name
    inner = name.removeprefix("trunk.")
    if inner.startswith("feature_extractor"):
        inner = inner.replace(".conv.", ".0.").replace(".layer_norm.", ".2.1.")
    elif inner.startswith("encoder.layers."):
        inner = inner.replace(".layer_norm.", ".self_attn_layer_norm.")
    for here, there in BACK.items():
        inner = inner.replace(here, there)
    return f"feature_extract.model.{inner}"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    from transformers import WavLMConfig, WavLMModel

    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=[16] * 7,
        num_buckets=32,
        num_conv_pos_embeddings=16,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        apply_spec_augment=False,
    )
    trunk = WavLMModel(config)
    return wavlm_sim.WavlmEcapa(trunk, 3, 32, 16, 8).eval()


@pytest.fixture(scope="module")
def weights(network: nn.Module) -> dict[str, Tensor]:
    return {written(name): value for name, value in network.state_dict().items()}


def test_names_of_the_published_file_are_those_of_transformers():
    assert {name: renamed(name) for name in UNILM} == UNILM


def test_a_file_gives_the_network_that_it_holds_and_leaves_the_random_state(network, weights, tmp_path: Path):
    extra = {"loss_calculator.projection.weight": torch.ones(2)}  # of the training
    torch.save({"model": weights | extra}, tmp_path / "wavlm.pth")
    torch.manual_seed(1)
    judge = WavlmSim(str(tmp_path / "wavlm.pth"))
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    clip = torch.rand(RATE // 2) - 0.5
    with torch.no_grad():
        torch.testing.assert_close(judge.encode([clip]), network(clip[None]))
    item = RewardInput(audio=clip, sample_rate=RATE, text="a", reference_audio=clip / 2)
    assert judge.score([item])["sim"].item() == pytest.approx(1, abs=1e-3)  # loudness does not matter


def test_a_file_with_a_tensor_too_few_or_of_another_shape_is_refused(weights, tmp_path: Path):
    path = tmp_path / "wavlm.pth"
    for name, problem in {"linear.bias": "linear.bias", "feature_weight": "lacks 'feature_weight'"}.items():
        torch.save({key: value for key, value in weights.items() if key != name}, path)
        with pytest.raises(ValueError, match=f"is no WavLM with an ECAPA-TDNN head.*{problem}"):
            WavlmSim(str(path))
    torch.save(weights | {"bn.bias": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"1 tensors differ, bn\.bias: \[3072\] here, \[2\] in the file"):
        WavlmSim(str(path))


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"config\.path is needed: the file wavlm_large_finetune\.pth"):
        WavlmSim()
    with pytest.raises(FileNotFoundError, match=r"no file at config\.path=nowhere\.pth"):
        WavlmSim("nowhere.pth")
