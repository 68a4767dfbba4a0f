"""Speaker similarity by WavLM with an ECAPA-TDNN head, as Seed-TTS-eval measures it; only module that imports WavLM.

It reads `wavlm_large_finetune.pth` of Microsoft's UniLM (Chen et al. 2022, arXiv 2110.13900). The network is that of
transformers, the head and the map of names are ours. The published file was never loaded by this project: the map is
tested with random weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from f5_tts.extras import install_hint
from f5_tts.model.build import find_device
from f5_tts.model.checkpoint import mismatches
from f5_tts.model.safe_load import check_tensors, read_file
from f5_tts.rewards.speaker.similarity_reward import SpeakerSimilarityReward

TRUNK = "feature_extract.model."  # prefix of WavLM in the file; the other tensors are the head's
TRAINING_KEYS = ("loss_calculator.",)  # prefixes of tensors that only training uses
NAMES = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"layer_norm\.", "feature_projection.layer_norm."),
    (r"post_extract_proj\.", "feature_projection.projection."),
    (r"mask_emb", "masked_spec_embed"),
    (r"encoder\.pos_conv\.0\.bias", "encoder.pos_conv_embed.conv.bias"),
    (r"encoder\.pos_conv\.0\.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"encoder\.pos_conv\.0\.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"(encoder\.layers\.\d+)\.self_attn\.grep_linear\.", r"\1.attention.gru_rel_pos_linear."),
    (r"(encoder\.layers\.\d+)\.self_attn\.grep_a", r"\1.attention.gru_rel_pos_const"),
    (r"(encoder\.layers\.\d+)\.self_attn\.relative_attention_bias\.", r"\1.attention.rel_attn_embed."),
    (r"(encoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.layer_norm."),
    (r"(encoder\.layers\.\d+)\.fc1\.", r"\1.feed_forward.intermediate_dense."),
    (r"(encoder\.layers\.\d+)\.fc2\.", r"\1.feed_forward.output_dense."),
)  # pattern of a name in the file -> name in transformers; the first that fits at the beginning; others are the same


class WavlmSim(SpeakerSimilarityReward):
    """Cosine similarity of the speaker embeddings of a clip and its reference, in [-1, 1], by WavLM with ECAPA-TDNN.

    See `SpeakerSimilarityReward`. Clips are normalized, so loudness does not matter.

    Args:
        path: `wavlm_large_finetune.pth`, or a file with the same names.
        device: torch device of the model.
    """

    requires = ("transformers",)
    num_parameters = 325_000_000

    def __init__(self, path: str | None = None, device: str = "cpu"):
        super().__init__()
        if path is None:
            raise ValueError(
                "wavlm_sim: config.path is needed: the file wavlm_large_finetune.pth that Seed-TTS-eval and F5-TTS use"
            )
        self.device = find_device(device, "wavlm_sim: config.device")
        self.network = load_network(Path(path).expanduser()).to(self.device)

    def encode(self, clips: list[Tensor]) -> Float[Tensor, "b e"]:
        """Compute the embedding of each clip."""
        with torch.autocast(self.device.type, enabled=False):
            return torch.cat([self.network(clip[None].to(self.device)) for clip in clips])


class WavlmEcapa(nn.Module):
    """WavLM, a weighted sum of its layers, and the head; names of the head are those of the file."""

    def __init__(self, trunk: Any, num_layers: int, width: int, channels: int, embedding: int):
        super().__init__()
        self.trunk = trunk
        self.feature_weight = nn.Parameter(torch.zeros(num_layers))
        self.layer1 = ConvReluNorm(width, channels, kernel=5, padding=2)
        self.layer2, self.layer3, self.layer4 = (SqueezeRes2Block(channels, dilation) for dilation in (2, 3, 4))
        self.conv = nn.Conv1d(3 * channels, CAT_CHANNELS, 1)
        self.pooling = AttentivePooling(CAT_CHANNELS)
        self.bn = nn.BatchNorm1d(2 * CAT_CHANNELS)
        self.linear = nn.Linear(2 * CAT_CHANNELS, embedding)

    def forward(self, wave: Float[Tensor, "b nw"]) -> Float[Tensor, "b e"]:
        """Compute the embedding of 16 kHz waveforms of one length."""
        states = self.trunk(F.layer_norm(wave, wave.shape[1:]), output_hidden_states=True).hidden_states
        weights = self.feature_weight.softmax(dim=0)
        features = (weights[:, None, None, None] * torch.stack(states)).sum(dim=0).transpose(1, 2) + 1e-6
        first = self.layer1(F.instance_norm(features))
        second = self.layer2(first)
        third = self.layer3(second)
        blocks = torch.cat([second, third, self.layer4(third)], dim=1)
        return self.linear(self.bn(self.pooling(self.conv(blocks).relu())))


CAT_CHANNELS = 1536  # of the head's last convolution, whatever the width of its blocks


class ConvReluNorm(nn.Module):
    """Convolution, ReLU and batch norm."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 1, padding: int = 0):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, padding=padding)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b d n"]:
        """Apply the layers."""
        return self.bn(self.conv(x).relu())


class Res2Conv(nn.Module):
    """Convolutions of eight groups of channels, each added to the next; the last group passes unchanged."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        width = channels // 8
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation) for _ in range(7))
        self.bns = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(7))

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        """Apply the convolutions in turn."""
        groups = list(x.chunk(8, dim=1))
        for index, (conv, norm) in enumerate(zip(self.convs, self.bns, strict=True)):
            previous = groups[index - 1] if index else 0
            groups[index] = norm(conv(groups[index] + previous).relu())
        return torch.cat(groups, dim=1)


class SqueezeExcitation(nn.Module):
    """Gate of each channel by the mean over time."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(channels, 128), nn.Linear(128, channels)

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        """Apply the gate."""
        return x * self.linear2(self.linear1(x.mean(dim=2)).relu()).sigmoid()[:, :, None]


class SqueezeRes2Block(nn.Module):
    """Block of ECAPA-TDNN with its shortcut."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.Conv1dReluBn1 = ConvReluNorm(channels, channels)
        self.Res2Conv1dReluBn = Res2Conv(channels, dilation)
        self.Conv1dReluBn2 = ConvReluNorm(channels, channels)
        self.SE_Connect = SqueezeExcitation(channels)

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        """Apply the block."""
        return x + self.SE_Connect(self.Conv1dReluBn2(self.Res2Conv1dReluBn(self.Conv1dReluBn1(x))))


class AttentivePooling(nn.Module):
    """Mean and standard deviation over time, weighted by attention."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Conv1d(channels, 128, 1), nn.Conv1d(128, channels, 1)

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b d"]:
        """Compute both statistics of each channel."""
        weights = self.linear2(self.linear1(x).tanh()).softmax(dim=2)
        mean = (weights * x).sum(dim=2)
        deviation = ((weights * x.square()).sum(dim=2) - mean.square()).clamp(min=1e-9).sqrt()
        return torch.cat([mean, deviation], dim=1)


# --- the file ---


def load_network(path: Path) -> WavlmEcapa:
    """Load the network of a file strictly, in evaluation mode and frozen.

    Raises FileNotFoundError, or ValueError with the first tensors that differ.
    """
    if not path.is_file():
        raise FileNotFoundError(f"wavlm_sim: no file at config.path={path}")
    content = read_file(path)
    content = content.get("model", content) if isinstance(content, Mapping) else content
    check_tensors(content, path)
    kept = {name: value.float() for name, value in content.items() if not name.startswith(TRAINING_KEYS)}
    weights = {renamed(name): value for name, value in kept.items()}
    try:
        network = build_network(weights)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"wavlm_sim: {path} is no WavLM with an ECAPA-TDNN head: it lacks {error}") from error
    if differing := mismatches(network.state_dict(), weights):
        raise ValueError(
            f"wavlm_sim: {path} is no WavLM with an ECAPA-TDNN head: {len(differing)} tensors differ, "
            f"{'; '.join(differing[:3])}"
        )
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def renamed(name: str) -> str:
    """Return the name that a tensor of the file has in `WavlmEcapa`."""
    if not name.startswith(TRUNK):
        return name
    inner = name.removeprefix(TRUNK)
    for pattern, new in NAMES:
        if re.match(pattern, inner):
            return "trunk." + re.sub(pattern, new, inner, count=1)
    return "trunk." + inner


def build_network(weights: Mapping[str, Tensor]) -> WavlmEcapa:
    """Build the network with the sizes that the tensors have, of random weights; the random state is left as it is."""
    try:
        from transformers import WavLMConfig, WavLMModel
    except ImportError as error:
        raise ImportError(f"wavlm_sim needs transformers; run: {install_hint('transformers')}") from error
    convs = [
        name for name in weights if re.fullmatch(r"trunk\.feature_extractor\.conv_layers\.\d+\.conv\.weight", name)
    ]
    attention = "trunk.encoder.layers.0.attention."
    config = WavLMConfig(
        hidden_size=len(weights["trunk.encoder.layer_norm.weight"]),
        num_hidden_layers=sum(name.endswith(".attention.q_proj.weight") for name in weights),
        num_attention_heads=weights[f"{attention}gru_rel_pos_const"].shape[1],
        intermediate_size=len(weights["trunk.encoder.layers.0.feed_forward.intermediate_dense.weight"]),
        num_buckets=len(weights[f"{attention}rel_attn_embed.weight"]),
        conv_dim=[len(weights[f"trunk.feature_extractor.conv_layers.{i}.conv.weight"]) for i in range(len(convs))],
        conv_bias="trunk.feature_extractor.conv_layers.0.conv.bias" in weights,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        apply_spec_augment=False,
        num_conv_pos_embeddings=weights["trunk.encoder.pos_conv_embed.conv.parametrizations.weight.original1"].shape[2],
    )
    with torch.random.fork_rng(devices=[]):
        trunk: Any = WavLMModel(config)
        channels, embedding = len(weights["layer1.bn.weight"]), len(weights["linear.weight"])
        return WavlmEcapa(trunk, len(weights["feature_weight"]), config.hidden_size, channels, embedding)
