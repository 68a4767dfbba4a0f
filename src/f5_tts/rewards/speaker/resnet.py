"""ResNet34 speaker encoder, key-compatible with WeSpeaker's published models."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

BLOCKS = (3, 4, 6, 3)  # of layer1 to layer4; layer2 to layer4 halve both axes and double the channels
DOWNSAMPLING = 2 ** (len(BLOCKS) - 1)  # total stride of both axes
VARIANCE_EPS = 1e-7


class ResNet34(nn.Module):
    """Speaker encoder: embedding of a voice from log-mel bands whose mean over time is zero.

    The embedding does not depend on the other items of the batch. Use it in eval mode.
    """

    def __init__(self, feat_dim: int, embed_dim: int, m_channels: int, two_emb_layer: bool):
        """Create the network; `feat_dim` must be a multiple of 8.

        `two_emb_layer` adds a second linear layer, as older published models have it.
        """
        super().__init__()
        self.feat_dim, self.two_emb_layer = feat_dim, two_emb_layer
        channels = [m_channels * 2**i for i in range(len(BLOCKS))]
        self.conv1 = nn.Conv2d(1, m_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(m_channels)
        self.layer1 = make_stage(m_channels, m_channels, 1, BLOCKS[0])
        self.layer2, self.layer3, self.layer4 = (
            make_stage(in_channels, out_channels, 2, num)
            for (in_channels, out_channels), num in zip(pairwise(channels), BLOCKS[1:], strict=True)
        )
        self.seg_1 = nn.Linear(2 * channels[-1] * feat_dim // DOWNSAMPLING, embed_dim)
        if two_emb_layer:
            self.seg_bn_1 = nn.BatchNorm1d(embed_dim, affine=False)
            self.seg_2 = nn.Linear(embed_dim, embed_dim)

    def forward(self, features: Float[Tensor, "b n d"], lens: Int[Tensor, " b"]) -> Float[Tensor, "b e"]:
        """Compute the embeddings; frames after an item's length must be zero."""
        mask = (torch.arange(features.shape[1], device=lens.device) < lens[:, None]).to(features)[:, None, None]
        x = self.bn1(self.conv1(features.mT[:, None])).mul_(mask).relu_()
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                mask = mask[..., :: block.stride]  # output frame t is around input frame 2 t: ceil(n / 2) frames
                x = block(x, mask)
        vector = self.seg_1(statistics(x, mask))
        return self.seg_2(self.seg_bn_1(vector.relu())) if self.two_emb_layer else vector


class Block(nn.Module):
    """Residual block: two 3x3 convolutions over frequency and time; masked frames stay zero.

    Its operations in place change nothing that the backward pass needs.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Float[Tensor, "b c d n"], mask: Float[Tensor, "b 1 1 m"]) -> Float[Tensor, "b k h m"]:
        """Apply the block; the mask is 1 on the valid output frames, else 0."""
        inner = self.bn1(self.conv1(x)).mul_(mask).relu_()
        return self.bn2(self.conv2(inner)).add_(self.shortcut(x)).mul_(mask).relu_()


def make_stage(in_channels: int, out_channels: int, stride: int, num: int) -> nn.ModuleList:
    """Build `num` residual blocks, the first of which has the stride and changes the width."""
    return nn.ModuleList(
        [Block(in_channels, out_channels, stride), *(Block(out_channels, out_channels, 1) for _ in range(num - 1))]
    )


def statistics(x: Float[Tensor, "b c d n"], mask: Float[Tensor, "b 1 1 n"]) -> Float[Tensor, "b s"]:
    """Compute mean and unbiased standard deviation of each channel and band over the valid frames.

    The deviation of a single frame is 0.
    """
    num = mask.sum(dim=-1)
    mean = x.sum(dim=-1) / num
    variance = (x - mean[..., None]).square().mul(mask).sum(dim=-1) / (num - 1).clamp(min=1)
    return torch.cat([mean.flatten(1), (variance + VARIANCE_EPS).sqrt().flatten(1)], dim=1)
