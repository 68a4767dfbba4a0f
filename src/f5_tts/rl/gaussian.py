"""Density of a diagonal Gaussian, per mel entry averaged over the frames a policy generates (pure, single precision).

Means over entries, not sums: a log-density then has one scale for short and long speech, and the ratio of two
policies stays near 1 (its spread shrinks with the root of the number of entries), which is why clip ranges are small.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Gaussian(NamedTuple):
    """Independent normal distributions; `std` may be one number for all entries."""

    mean: Tensor  # b n d
    std: Tensor  # b n d, or a scalar

    def draw(self) -> Float[Tensor, "b n d"]:
        return self.mean + self.std * torch.randn_like(self.mean)


def log_prob(action: Float[Tensor, "b n d"], policy: Gaussian) -> Float[Tensor, "b n"]:
    """-(a - m)² / (2 s²) - ln s, the constant ln √2π left out; mean over the bins of each frame."""
    mean, std = policy.mean.float(), policy.std.float()
    return (-(((action.float() - mean) / std).square()) / 2 - std.log()).mean(dim=-1)


def kl_divergence(policy: Gaussian, reference: Gaussian, target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """KL(policy || reference) = mean_D [ ln(s_r/s) + (s² + (m - m_r)²) / (2 s_r²) - 1/2 ]."""
    mean, std, mean_r, std_r = (part.float() for part in (*policy, *reference))
    spread = (std_r / std).log() + (std.square() + (mean - mean_r).square()) / (2 * std_r.square())
    return entry_mean(spread - 0.5, target)


def entry_mean(values: Float[Tensor, "b n d"], target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Mean over the bins of each sample's target frames."""
    return frame_mean(values.mean(dim=-1), target)


def frame_mean(values: Float[Tensor, "b n"], target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Mean over each sample's target frames."""
    return values.masked_fill(~target, 0.0).sum(dim=1) / target.sum(dim=1)
