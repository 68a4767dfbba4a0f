"""Random changes of finished log-mels before differentiable rewards see them (rl.draft.augmentation)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

GAIN, TILT, NOISE = 0.8, 0.7, 0.5  # most change in nats: of all bands, of the outer bands, standard deviation of noise
MASKED_BANDS, MASKED_FRAMES = 12, 4  # most adjacent bands and frames that are masked
MASK_PROBABILITY = 0.3


def augment(mel: Float[Tensor, "b n d"], target: Bool[Tensor, "b n"], strength: float) -> Float[Tensor, "b n d"]:
    """Change gain, spectral tilt and noise of each sample, and mask some of its bands and frames; differentiable.

    A policy then cannot rely on one reading of a reward model. `strength` in [0, 1] scales all changes; 0: none.
    Masked entries take the mean of the sample's generated span.
    """
    if strength == 0:
        return mel
    num, _, bins = mel.shape
    gain, tilt, noise = (
        strength * limit * draw for limit, draw in zip((GAIN, TILT, NOISE), torch.rand(3, num, 1, 1), strict=True)
    )
    sign = torch.where(torch.rand(2, num, 1, 1) < 0.5, -1.0, 1.0)
    ramp = torch.linspace(-1, 1, bins)
    change = sign[0] * gain + sign[1] * tilt * ramp + noise * torch.randn(mel.shape)
    changed = mel + change.to(mel)
    mask = random_mask(target, bins, strength * MASK_PROBABILITY).to(mel.device)
    frames = target[..., None]
    mean = (mel.detach() * frames).sum(dim=(1, 2)) / (frames.sum(dim=(1, 2)) * bins)
    return torch.where(mask, mean[:, None, None], changed)


def random_mask(target: Bool[Tensor, "b n"], bins: int, probability: float) -> Bool[Tensor, "b n d"]:
    """Mask a few adjacent bands, and a few adjacent frames of the generated span, of some samples."""
    num, length = target.shape
    starts = target.float().argmax(dim=1).cpu() + torch.rand(num) * (target.sum(dim=1).cpu() - 1)
    frames = random_interval(starts.long(), length, MASKED_FRAMES, probability)
    bands = random_interval(torch.randint(bins, (num,)), bins, MASKED_BANDS, probability)
    return frames[:, :, None] | bands[:, None, :]


def random_interval(starts: Tensor, length: int, most: int, probability: float) -> Bool[Tensor, "b l"]:
    """Return for each sample a mask of up to `most` adjacent positions from its start, or an empty one."""
    sizes = torch.randint(1, most + 1, starts.shape) * (torch.rand(len(starts)) < probability)
    positions = torch.arange(length)
    return (positions >= starts[:, None]) & (positions < (starts + sizes)[:, None])
