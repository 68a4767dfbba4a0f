"""Random changes of log-mels for the training of `digits_ctc`, and negatives that hold no words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from f5_tts.rewards.asr.digits_network import MEL_RANGE

Change = Callable[[Tensor, np.random.Generator], Tensor]  # log-mel n d in nats -> changed log-mel
SILENCE = MEL_RANGE[0]  # log-mel of silence, nats
BACKGROUND = (1.5, 3.0)  # nats by which a second clip is quieter: 13 to 26 dB
BACKGROUND_PROBABILITY = 0.15


def change_mel(
    mel: Float[Tensor, "n d"], other: Float[Tensor, "k d"], rng: np.random.Generator
) -> Float[Tensor, "m d"]:
    """Apply each change with its probability, in order; `other` is a clip that may be heard in the background."""
    if rng.random() < BACKGROUND_PROBABILITY:
        mel = add_background(mel, other, rng)
    for probability, change in CHANGES:
        if rng.random() < probability:
            mel = change(mel, rng)
    return mel.clamp(min=SILENCE)


# --- changes ---


def add_background(mel: Tensor, other: Tensor, rng: np.random.Generator) -> Tensor:
    """Add another clip, repeated as needed; magnitudes are summed."""
    repeated = other.repeat(len(mel) // len(other) + 1, 1)[: len(mel)]
    return torch.logaddexp(mel, repeated - rng.uniform(*BACKGROUND))


def change_gain(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Change the level by -10 to 7 dB."""
    return mel + rng.uniform(-1.2, 0.8)


def tilt(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Tilt the spectrum by up to one neper at its ends."""
    return mel + rng.uniform(-1, 1) * ramp(mel)


def warp_bands(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Move the bands by up to 6 % of their index, as another vocal tract would; linear interpolation."""
    source = (torch.arange(mel.shape[1]) * rng.uniform(0.94, 1.06)).clamp(max=mel.shape[1] - 1)
    low = source.long()
    high = (low + 1).clamp(max=mel.shape[1] - 1)
    return torch.lerp(mel[:, low], mel[:, high], source - low)


def stretch(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Change the speed by a factor of 0.85 to 1.2."""
    length = max(8, round(len(mel) / rng.uniform(0.85, 1.2)))
    return F.interpolate(mel.T[None], size=length, mode="linear", align_corners=True)[0].T


def blur(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Mix in a moving average over 3 or 5 frames or bands."""
    width, over_frames = int(rng.choice([3, 3, 5])), rng.random() < 0.5
    size = (width, 1) if over_frames else (1, width)
    margin = (size[0] // 2, size[1] // 2)
    average = F.avg_pool2d(mel[None], size, stride=1, padding=margin, count_include_pad=False)[0]
    return torch.lerp(mel, average, rng.random())


def add_noise(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Add colored noise 22 to 61 dB below the loudest entry; magnitudes are summed."""
    level = mel.amax() - rng.uniform(2.5, 7.0)
    return torch.logaddexp(mel, level + rng.uniform(-1, 1) * ramp(mel) + normal(mel, 0.5, rng))


def jitter(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Add Gaussian noise to the logarithm, with a standard deviation of up to 0.7 nats."""
    return mel + normal(mel, rng.uniform(0, 0.7), rng)


def mask_bands(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Replace 3 to 11 adjacent bands by the clip's mean."""
    return mask(mel.T, int(rng.integers(3, 12)), rng).T


def mask_frames(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Replace 1 to 3 adjacent frames by the clip's mean."""
    return mask(mel, int(rng.integers(1, 4)), rng)


def pad_silence(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Add up to 7 frames of near silence at each end."""
    before, after = (int(rng.integers(0, 8)) for _ in range(2))
    return F.pad(mel, (0, 0, before, after), value=rng.uniform(SILENCE, -8.0))


# Probabilities and sizes are those of a trial whose recognizers stood the test; they were not tuned one by one.
CHANGES: tuple[tuple[float, Change], ...] = (
    (1.0, change_gain),
    (0.5, tilt),
    (0.5, warp_bands),
    (0.6, stretch),
    (0.4, blur),
    (0.4, add_noise),
    (0.7, jitter),
    (0.3, mask_bands),
    (0.3, mask_frames),
    (0.3, pad_silence),
)


# --- negatives: clips in which no word should be heard ---


def make_negative(mel: Float[Tensor, "n d"], rng: np.random.Generator) -> Float[Tensor, "n d"]:
    """Make a clip without words from one with words: near silence, noise, reversed, or shuffled."""
    return NEGATIVES[rng.integers(len(NEGATIVES))](mel, rng)


def near_silence(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Return faint noise without color."""
    return SILENCE + rng.uniform(0, 2) + normal(mel, 0.5 * rng.random(), rng)


def noise_of_same_color(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Return stationary noise with the clip's mean spectrum."""
    return mel.mean(dim=0, keepdim=True) + normal(mel, rng.uniform(0.2, 1.0), rng)


def reverse(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Reverse the frames."""
    return mel.flip(0)


def shuffle(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Shuffle pieces of two frames."""
    pieces = mel.split(2)
    return torch.cat([pieces[index] for index in rng.permutation(len(pieces))])


NEGATIVES: tuple[Change, ...] = (near_silence, noise_of_same_color, reverse, shuffle)


# --- helpers ---


def ramp(mel: Tensor) -> Float[Tensor, " d"]:
    """Return a line over the bands, from -1 to 1."""
    return torch.linspace(-1, 1, mel.shape[1])


def normal(mel: Tensor, std: float, rng: np.random.Generator) -> Tensor:
    """Draw Gaussian noise of the mel's shape."""
    return torch.from_numpy(std * rng.standard_normal(mel.shape, dtype=np.float32))


def mask(rows: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Replace `count` adjacent rows by the mean of all entries."""
    start = int(rng.integers(0, max(1, len(rows) - count)))
    masked = rows.clone()
    masked[start : start + count] = rows.mean()
    return masked
