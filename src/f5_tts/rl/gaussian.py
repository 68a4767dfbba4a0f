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

    def sample(self) -> Float[Tensor, "b n d"]:
        return self.mean + self.std * torch.randn_like(self.mean)


def log_density(action: Float[Tensor, "b n d"], policy: Gaussian) -> Float[Tensor, "b n d"]:
    """-(a - m)² / (2 s²) - ln s, the constant ln √2π left out."""
    mean, std = policy.mean.float(), policy.std.float()
    return -(((action.float() - mean) / std).square()) / 2 - std.log()


def log_ratio(action: Float[Tensor, "b n d"], current: Gaussian, old: Gaussian) -> Float[Tensor, "b n"]:
    """ln π(a) - ln π_then(a), mean over the bins of each frame."""
    return (log_density(action, current) - log_density(action, old)).mean(dim=-1)


def guarded_log_ratio(action: Float[Tensor, "b n d"], current: Gaussian, old: Gaussian) -> Float[Tensor, "b n"]:
    """mean_D [ s (ln r + Δm² / (2 s²)) ]: centred, and weighed by s (GRPO-Guard, Wang et al. 2025, arXiv 2510.22319).

    An average of log-ratios is negative off policy, about -Δm² / (2 s²), so that an upper clip never acts; without
    that part it is centred at 0, and clips on both sides act alike at every step. Δm = m - m_then, s that of `then`.
    """
    shift, std = (current.mean - old.mean).float(), old.std.float()
    ratio = log_density(action, current) - log_density(action, old)
    return (std * (ratio + (shift / std).square() / 2)).mean(dim=-1)


def kl_divergence(policy: Gaussian, reference: Gaussian, target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """KL(policy || reference) = mean_D [ ln(s_r/s) + (s² + (m - m_r)²) / (2 s_r²) - 1/2 ]."""
    mean, std, mean_r, std_r = (tensor.float() for tensor in (*policy, *reference))
    kl_entries = (std_r / std).log() + (std.square() + (mean - mean_r).square()) / (2 * std_r.square())
    return entry_mean(kl_entries - 0.5, target)


def entropy(policy: Gaussian, target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """mean_D [ ln s + (1 + ln 2π) / 2 ], in nats per mel entry."""
    entropy_entries = (policy.std.float().log() + (1 + torch.tensor(2 * torch.pi).log()) / 2).expand_as(policy.mean)
    return entry_mean(entropy_entries, target)


def entry_mean(values: Float[Tensor, "b n d"], target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Mean over the bins of each sample's target frames."""
    return frame_mean(values.mean(dim=-1), target)


def frame_mean(values: Float[Tensor, "b n"], target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Mean over each sample's target frames."""
    return values.masked_fill(~target, 0.0).sum(dim=1) / target.sum(dim=1)
