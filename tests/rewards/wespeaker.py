"""Model folders in WeSpeaker's format with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

BLOCKS = {
    "layer1": (3, 1),
    "layer2": (4, 2),
    "layer3": (6, 4),
    "layer4": (3, 8),
}  # number of blocks, channels relative to the first layer


def make_directory(
    folder: Path, *, m_channels: int = 32, feat_dim: int = 80, embed_dim: int = 256, two_emb_layer: bool = False
) -> Path:
    """Make a model folder.

    The default sizes are those of cnceleb_resnet34, whose config does not give m_channels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "exp_dir": "exp/ResNet34-TSTP-emb256-fbank80-num_frms200-aug0.6-spTrue-saFalse-ArcMargin-SGD-epoch165",
        "dataset_args": {
            "shuffle": True,
            "speed_perturb": True,
            "num_frms": 200,
            "aug_prob": 0.6,
            "resample_rate": 16_000,
            "fbank_args": {"num_mel_bins": feat_dim, "frame_shift": 10, "frame_length": 25, "dither": 1.0},
            "spec_aug": False,
        },
        "model": "ResNet34",
        "model_init": None,
        "model_args": {
            "feat_dim": feat_dim,
            "embed_dim": embed_dim,
            "pooling_func": "TSTP",
            "two_emb_layer": two_emb_layer,
        },
        "projection_args": {"project_type": "arc_margin", "scale": 32.0, "easy_margin": False},
    }
    if m_channels != 32:
        config["model_args"]["m_channels"] = m_channels
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    shapes = published_shapes(m_channels, feat_dim, embed_dim, two_emb_layer)
    torch.save(random_weights(shapes | {"projection.weight": (10, embed_dim)}), folder / "avg_model.pt")
    return folder


def change_config(folder: Path, key: str, value: Any) -> None:
    """Set a dotted key of the folder's config.yaml."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    *sections, last = key.split(".")
    section = config
    for name in sections:
        section = section.setdefault(name, {})
    section[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def published_shapes(m_channels: int, feat_dim: int, embed_dim: int, two_emb_layer: bool) -> dict[str, tuple[int, ...]]:
    """List the shapes of all tensors of an avg_model.pt except its projection."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (m_channels, 1, 3, 3)} | norm("bn1", m_channels)
    narrow = m_channels
    for layer, (num, times) in BLOCKS.items():
        wide = m_channels * times
        for i in range(num):
            block = f"{layer}.{i}"
            shapes |= {f"{block}.conv1.weight": (wide, narrow, 3, 3)} | norm(f"{block}.bn1", wide)
            shapes |= {f"{block}.conv2.weight": (wide, wide, 3, 3)} | norm(f"{block}.bn2", wide)
            if narrow != wide:
                shapes |= {f"{block}.shortcut.0.weight": (wide, narrow, 1, 1)} | norm(f"{block}.shortcut.1", wide)
            narrow = wide
    shapes |= {"seg_1.weight": (embed_dim, 2 * 8 * m_channels * feat_dim // 8), "seg_1.bias": (embed_dim,)}
    if two_emb_layer:
        shapes |= {
            name: size for name, size in norm("seg_bn_1", embed_dim).items() if "running" in name or "num" in name
        }
        shapes |= {"seg_2.weight": (embed_dim, embed_dim), "seg_2.bias": (embed_dim,)}
    return shapes


def norm(name: str, num: int) -> dict[str, tuple[int, ...]]:
    """List the shapes of the tensors of a batch normalization."""
    sized = {f"{name}.{part}": (num,) for part in ("weight", "bias", "running_mean", "running_var")}
    return sized | {f"{name}.num_batches_tracked": ()}


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Draw weights of the scale of a trained network, so that activations neither vanish nor explode.

    Batch counts are fractions, as averaging of checkpoints leaves them.
    """
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(1234.5)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith(".weight")):
            weights[name] = 0.5 + torch.rand(shape, generator=draw)
        else:
            fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else 25
            weights[name] = torch.randn(shape, generator=draw) / fan_in**0.5
    return weights
