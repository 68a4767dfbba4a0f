"""Log-densities and KL of diagonal Gaussians, averaged over the generated mel entries (pure, single precision).

The functions return means over entries, not sums. A log-density then has one scale for short and long speech. The ratio
of two policies stays near 1, since its spread shrinks with the root of the number of entries; this is why clip ranges
are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Gaussian(NamedTuple):
    """Independent normal distributions, one per mel entry; `std` may be one number for all entries."""

    mean: Tensor  # b n d
    std: Tensor  # b n d, or a scalar

    def sample(self, block: Sequence[int] = (1, 1)) -> Float[Tensor, "b n d"]:
        """Draw one sample, whose noise is the same within blocks of so many frames and bins; see `block_noise`."""
        return self.mean + self.std * block_noise(self.mean, block)


def block_noise(like: Float[Tensor, "b n d"], block: Sequence[int]) -> Float[Tensor, "b n d"]:
    """Draw standard normal noise that is the same within blocks of `block` = (frames, bins); the last ones may be cut.

    A density averaged over entries then weighs each block by its size, and its gradient stays exact on policy: that of
    the density of the block's mean (docs/rl.md).
    """
    (frames, bins), (size, length, width) = block, like.shape
    noise = torch.randn(size, ceil(length / frames), ceil(width / bins), device=like.device, dtype=like.dtype)
    return noise.repeat_interleave(frames, dim=1)[:, :length].repeat_interleave(bins, dim=2)[..., :width]


def log_density(action: Float[Tensor, "b n d"], policy: Gaussian) -> Float[Tensor, "b n d"]:
    """Compute -(a - m)² / (2 s²) - ln s, without the constant ln √2π."""
    mean, std = policy.mean.float(), policy.std.float()
    return -(((action.float() - mean) / std).square()) / 2 - std.log()


def log_ratio(action: Float[Tensor, "b n d"], current: Gaussian, old: Gaussian) -> Float[Tensor, "b n"]:
    """Compute ln π(a) - ln π_old(a), averaged over the mel bins of each frame."""
    return (log_density(action, current) - log_density(action, old)).mean(dim=-1)


def guarded_log_ratio(action: Float[Tensor, "b n d"], current: Gaussian, old: Gaussian) -> Float[Tensor, "b n"]:
    """Compute mean_D [ s (ln r + Δm² / (2 s²)) ], the log-ratio of GRPO-Guard (Wang et al. 2025, arXiv 2510.22319).

    Off policy, an average of log-ratios is negative, about -Δm² / (2 s²), so that the upper clip never acts. Without
    that term the mean is 0, and the clips on both sides act alike at every step. Δm = m - m_old, and s is the standard
    deviation of the old policy.
    """
    shift, std = (current.mean - old.mean).float(), old.std.float()
    ratio = log_density(action, current) - log_density(action, old)
    return (std * (ratio + (shift / std).square() / 2)).mean(dim=-1)


def kl_divergence(policy: Gaussian, reference: Gaussian, target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Compute KL(policy || reference) = mean_D [ ln(s_r/s) + (s² + (m - m_r)²) / (2 s_r²) - 1/2 ]."""
    mean, std, mean_r, std_r = (tensor.float() for tensor in (*policy, *reference))
    kl_entries = (std_r / std).log() + (std.square() + (mean - mean_r).square()) / (2 * std_r.square())
    return entry_mean(kl_entries - 0.5, target)


def entropy(policy: Gaussian, target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Compute mean_D [ ln s + (1 + ln 2π) / 2 ], in nats per mel entry."""
    entropy_entries = (policy.std.float().log() + (1 + torch.tensor(2 * torch.pi).log()) / 2).expand_as(policy.mean)
    return entry_mean(entropy_entries, target)


def entry_mean(values: Float[Tensor, "b n d"], target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Average over the mel bins and target frames of each sample."""
    return frame_mean(values.mean(dim=-1), target)


def frame_mean(values: Float[Tensor, "b n"], target: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Average over the target frames of each sample."""
    return values.masked_fill(~target, 0.0).sum(dim=1) / target.sum(dim=1)
