"""Naturalness by DistillMOS (Stahl and Gamper 2025, arXiv 2502.05356), a predicted mean opinion score.

Only the weights file of the package distillmos is used. Its code, which needs torchaudio, is never imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from f5_tts.extras import install_assets
from f5_tts.model.build import find_device
from f5_tts.model.safe_load import check_tensors, read_file
from f5_tts.rewards.audio import shared_rate, to_16k_mono, usable_indices
from f5_tts.types import RewardInput

WINDOW, HOP = 320, 160  # samples at 16 kHz: 20 ms and 10 ms
SEGMENT = 122_880  # samples that the network sees at once, 7.68 s
MAX_STEP = 16_000  # samples, largest distance of two segments of a longer clip
POWER = 0.3  # exponent of the compressed magnitudes
EPS = 1e-12  # smallest magnitude
PEAK_EPS = 1e-8  # added to the peak that a segment is divided by
CHANNELS = (2, 64, 64, 128, 256, 256, 256)  # of the convolutions; real and imaginary part first
FRAMES = 384  # of a segment
WIDTH, HEADS, LAYERS = 200, 8, 7  # of the transformer
WORST = 1.0  # mean opinion scores are 1 to 5


class DistillMos:
    """Mean opinion score that listeners would give, 1 to 5, predicted from the clip alone.

    Clips of single words and vocoded ones score low: compare models, and models with recordings. `unusable`: 1 where
    the clip cannot be scored, which gets the worst score, 1, else 0.
    """

    component = "mos"
    requires = ("distillmos",)
    num_parameters = 4_133_226

    def __init__(self, device: str = "cpu"):
        self.device = find_device(device, "distill_mos: config.device")
        self.network = load_network(published_weights()).to(self.device)

    @torch.no_grad()
    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Float[Tensor, " b"]]:
        """Score the clips; raise ValueError if their sample rates differ."""
        sample_rate, clips = shared_rate(inputs), [item.audio for item in inputs]
        scores, unusable = torch.full((len(clips),), WORST), torch.ones(len(clips))
        for index in usable_indices(clips, sample_rate):
            parts = segments(to_16k_mono(clips[index], sample_rate)).to(self.device)
            scores[index], unusable[index] = self.network(parts).mean().cpu(), 0.0
        return {"mos": scores, "unusable": unusable}


def segments(clip: Float[Tensor, " nw"]) -> Float[Tensor, "s 122880"]:
    """Cut a 16 kHz clip into overlapping segments, evenly spaced from its start to its end; pad a shorter one."""
    surplus = len(clip) - SEGMENT
    if surplus <= 0:
        return F.pad(clip, (0, -surplus))[None]
    num = math.ceil(surplus / MAX_STEP) + 1
    starts = [int(index / (num - 1) * surplus) for index in range(num)]
    return torch.stack([clip[start : start + SEGMENT] for start in starts])


class DistillMosNetwork(nn.Module):
    """Convolutions over a complex spectrogram and a transformer; parameter names match the published checkpoint."""

    def __init__(self):
        super().__init__()
        self.cnn = Convolutions()
        self.transformer_pool_attn = PooledTransformer(CHANNELS[-1] * self.cnn.num_bands)

    def forward(self, segments: Float[Tensor, "s 122880"]) -> Float[Tensor, " s"]:
        """Compute the predicted mean opinion score of each segment; loudness does not count."""
        peak = segments.abs().amax(dim=1, keepdim=True)
        return 1 + 4 * self.transformer_pool_attn(self.cnn(segments / (peak + PEAK_EPS)))


class Convolutions(nn.Module):
    """Six convolutions; all but the first halve the bands, the last one halves the frames too."""

    def __init__(self):
        super().__init__()
        layers, self.num_bands = [], WINDOW // 2 + 1
        for index in range(len(CHANNELS) - 1):
            stride = (min(index, 1) + 1, 2 if index == len(CHANNELS) - 2 else 1)
            layers += [nn.Conv2d(CHANNELS[index], CHANNELS[index + 1], 3, stride, padding=(0, 1)), nn.LeakyReLU(0.1)]
            self.num_bands = (self.num_bands - 3) // stride[0] + 1
        self.cnn = nn.Sequential(*layers)

    def forward(self, wave: Float[Tensor, "s 122880"]) -> Float[Tensor, "s 384 c"]:
        """Compute the features of each frame."""
        return self.cnn(compressed_spectrum(wave)).flatten(1, 2).mT


def compressed_spectrum(wave: Float[Tensor, "s nw"]) -> Float[Tensor, "s 2 f n"]:
    """Compute a spectrogram whose magnitudes are raised to POWER, as real and imaginary parts."""
    margin = (WINDOW - HOP) // 2
    window = torch.hann_window(WINDOW, device=wave.device)
    padded = F.pad(wave, (margin, margin), mode="reflect")
    spectrum = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)
    magnitude = spectrum.abs().clamp(min=EPS)
    return torch.view_as_real(spectrum * (magnitude**POWER / magnitude)).permute(0, 3, 1, 2)


class PooledTransformer(nn.Module):
    """Transformer encoder over frames, pooled by attention to one number in [0, 1]."""

    def __init__(self, num_features: int):
        super().__init__()
        self.norm_input = nn.BatchNorm1d(num_features)
        self.transformer = FrameTransformer(num_features)
        self.norm_trans = nn.BatchNorm1d(WIDTH)
        self.pool = AttentionPool()

    def forward(self, features: Float[Tensor, "s 384 c"]) -> Float[Tensor, " s"]:
        """Compute the score of each segment."""
        states = self.transformer(self.norm_input(features.mT))
        return self.pool(self.norm_trans(states.mT).mT).sigmoid()


class FrameTransformer(nn.Module):
    """Transformer encoder with sinusoidal positions, which the checkpoint holds."""

    def __init__(self, num_features: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(num_features)
        self.position_encoding = Positions()
        self.linear_proj = nn.Linear(num_features, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, LAYERS)

    def forward(self, features: Float[Tensor, "s c 384"]) -> Float[Tensor, "s 384 w"]:
        """Compute the state of each frame."""
        states = self.linear_proj(self.norm(features).mT) + self.position_encoding.pe
        return self.transformer_encoder(states)


class Positions(nn.Module):
    """Values that are added to the frames' states."""

    pe: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("pe", torch.zeros(1, FRAMES, WIDTH))


class AttentionPool(nn.Module):
    """Weighted mean of the frames, with weights of their own network, projected to one number."""

    def __init__(self):
        super().__init__()
        self.linear1 = nn.Linear(WIDTH, 2 * WIDTH)
        self.linear2 = nn.Linear(2 * WIDTH, 1)
        self.linear3 = nn.Linear(WIDTH, 1)

    def forward(self, states: Float[Tensor, "s n w"]) -> Float[Tensor, " s"]:
        """Compute the pooled number of each segment."""
        weights = self.linear2(self.linear1(states).relu()).softmax(dim=1)
        return self.linear3((weights * states).sum(dim=1))[:, 0]


def published_weights() -> Path:
    """Return the path of distillmos's installed weights, without importing the package."""
    package = find_spec("distillmos")
    folders = package.submodule_search_locations if package else None
    return Path(folders[0] if folders else "distillmos") / "weights" / "distill_mos_v7.pt"


def load_network(path: Path) -> DistillMosNetwork:
    """Load the published network strictly.

    Raises FileNotFoundError if the file is missing, ValueError if it is damaged or its tensors differ.
    """
    if not path.is_file():
        raise FileNotFoundError(f"distill_mos: no weights at {path}; run: {install_assets('distillmos')}")
    content, network = read_file(path), DistillMosNetwork()
    weights: Any = content.get("model") if isinstance(content, dict) else None
    check_tensors(weights, path)
    expected = {name: value.shape for name, value in network.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    if differing := sorted({name for name, _ in expected.items() ^ found.items()}):
        raise ValueError(
            f"distill_mos: {path} is another network, it differs in {', '.join(differing)}; run: "
            f"{install_assets('distillmos')}"
        )
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)
