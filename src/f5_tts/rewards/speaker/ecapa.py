"""Small ECAPA-TDNN speaker encoder: features to a voice embedding."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

MEL_BINS = 64  # mel bands of the filter bank
WIDTH = 96  # channels of the convolutions
DILATIONS = (1, 2, 3, 4)  # frames between the taps of each block's convolution
SQUEEZE = 24  # channels of a block's squeeze-excitation
POOLED = 192  # channels that are pooled over time
EMBEDDING = 64  # values of an embedding
VARIANCE_EPS = 1e-6  # keeps the gradient of the standard deviation finite


class EcapaTdnn(nn.Module):
    """ECAPA-TDNN of small size (Desplanques et al. 2020, arXiv 2005.07143), without the Res2Net splits.

    Dilated residual blocks with squeeze-excitation, whose outputs are aggregated, and attentive statistics pooling.
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(MEL_BINS, WIDTH, 5, padding=2), nn.ReLU(), nn.BatchNorm1d(WIDTH))
        self.blocks = nn.ModuleList(Block(dilation) for dilation in DILATIONS)
        self.aggregate = nn.Sequential(nn.Conv1d(WIDTH * len(DILATIONS), POOLED, 1), nn.ReLU())
        self.attention = nn.Sequential(nn.Conv1d(POOLED, SQUEEZE, 1), nn.Tanh(), nn.Conv1d(SQUEEZE, POOLED, 1))
        self.project = nn.Sequential(nn.BatchNorm1d(2 * POOLED), nn.Linear(2 * POOLED, EMBEDDING))

    def forward(self, features: Float[Tensor, "b n 64"]) -> Float[Tensor, "b 64"]:
        """Compute the embeddings, of any norm, of clips with equal numbers of frames."""
        x, outputs = self.stem(features.mT), []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = self.aggregate(torch.cat(outputs, dim=1))
        weights = self.attention(x).softmax(dim=2)
        mean = (weights * x).sum(dim=2)
        variance = (weights * (x - mean[:, :, None]).square()).sum(dim=2)
        return self.project(torch.cat([mean, (variance + VARIANCE_EPS).sqrt()], dim=1))


class Block(nn.Module):
    """Residual block: a dilated convolution, a pointwise one, and squeeze-excitation."""

    def __init__(self, dilation: int):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation),
            nn.ReLU(),
            nn.BatchNorm1d(WIDTH),
            nn.Conv1d(WIDTH, WIDTH, 1),
            nn.ReLU(),
            nn.BatchNorm1d(WIDTH),
        )
        self.excite = nn.Sequential(nn.Linear(WIDTH, SQUEEZE), nn.ReLU(), nn.Linear(SQUEEZE, WIDTH), nn.Sigmoid())

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        """Apply the block."""
        y = self.convolutions(x)
        return x + y * self.excite(y.mean(dim=2))[:, :, None]
