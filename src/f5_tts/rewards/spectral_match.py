"""Match of a clip's spectral statistics with those of its reference recording."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config.schema import MelSpecConfig
from f5_tts.model.mel import LogMel
from f5_tts.rewards.audio import is_usable, log_mels, shared_rate
from f5_tts.rewards.clip_losses import clip_losses
from f5_tts.types import RewardInput

FRAME_S, HOP_S, MEL_BINS = 0.064, 0.02, 100  # of the log-mels of `score`; those of `loss` are the run's
MIN_VARIANCE = 1e-3  # nats², added to each variance: bands without energy have none


class SpectralMatch:
    """Match of a clip's spectral statistics with those of its reference recording, in (0, 1]; 1: they are the same.

    A flow model of few solver steps or few weights speaks too smoothly: neighboring bands and frames differ less than
    those of recordings, as in statistical synthesis without a global variance (Toda and Tokuda 2007, IEICE Transactions
    E90-D). Clip and reference may say different words. Loudness matters. NaN where one of them is missing or unusable.
    """

    component = "match"
    takes = "mel"
    takes_unchanged = True

    @staticmethod
    def loss_mib(seconds: float, num_clips: int) -> float:
        """Return the memory of the loss of clips of this length (s), forward and backward, in MiB: of one clip."""
        return 0.3 * seconds

    def score(self, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]:
        """Compute exp(-d) of each clip, with d the distance of its statistics to those of its reference."""
        rate = shared_rate(inputs)
        log_mel = LogMel(wave_spec(rate))
        pairs = [[of_wave(wave, rate, log_mel) for wave in (item.audio, item.reference_audio)] for item in inputs]
        return torch.stack([(-distance(clip, reference)).exp() for clip, reference in pairs])

    def loss(self, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]:
        """Compute the distance of each clip's statistics to those of its reference, differentiable in its log-mel."""
        mels, spec = log_mels(inputs)
        log_mel = LogMel(spec)
        references = [of_wave(item.reference_audio, item.sample_rate, log_mel) for item in inputs]
        applies = [
            len(mel) > 1 and bool(mel.isfinite().all() and reference.isfinite().all())
            for mel, reference in zip(mels, references, strict=True)
        ]
        return clip_losses(
            [mel if ok else None for mel, ok in zip(mels, applies, strict=True)],
            lambda mel, index: distance(statistics(mel), references[index].to(mel)),
        )


def wave_spec(sample_rate: int) -> MelSpecConfig:
    """Return the settings of the log-mels of waveforms of this sample rate."""
    window = round(FRAME_S * sample_rate)
    return MelSpecConfig(
        target_sample_rate=sample_rate,
        n_mel_channels=MEL_BINS,
        hop_length=round(HOP_S * sample_rate),
        win_length=window,
        n_fft=window,
        mel_spec_type="vocos",
    )


def of_wave(wave: Tensor | None, sample_rate: int, log_mel: LogMel) -> Float[Tensor, "4 d"]:
    """Compute the statistics of a waveform; NaN where it is missing, unusable or shorter than two frames."""
    spec = log_mel.spec
    if wave is None or not is_usable(wave, sample_rate) or len(wave) < spec.win_length + spec.hop_length:
        return torch.full((4, spec.n_mel_channels), math.nan)
    return statistics(log_mel(wave.detach().float().cpu()[None])[0])


def statistics(mel: Float[Tensor, "n d"]) -> Float[Tensor, "4 d"]:
    """Compute of each band its mean, and the logarithms of three deviations, those of a band being over the frames.

    They are the deviations of its level, of its difference to the next band (the last two bands share one), and of its
    difference to the next frame.
    """
    level = mel - mel.mean(dim=0)
    to_next_band, to_next_frame = level.diff(dim=1), level.diff(dim=0)
    to_next_band = torch.cat([to_next_band, to_next_band[:, -1:]], dim=1)
    variances = torch.stack([values.square().mean(dim=0) for values in (level, to_next_band, to_next_frame)])
    return torch.cat([mel.mean(dim=0)[None], (variances + MIN_VARIANCE).log() / 2])


def distance(clip: Float[Tensor, "4 d"], reference: Float[Tensor, "4 d"]) -> Float[Tensor, ""]:
    """Compute the mean squared difference of the statistics, in nats²."""
    return (clip - reference).square().mean()
