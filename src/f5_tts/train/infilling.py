"""Loss of stage 1: infilling by velocity MSE, or by Gaussian NLL."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from f5_tts.config.schema import ModelConfig
from f5_tts.data.masking import random_spans, span_mask
from f5_tts.model.cfm import CFM
from f5_tts.model.flow import interpolate, sway
from f5_tts.model.heads import Velocity
from f5_tts.model.losses import gaussian_nll, span_mean, velocity_mse
from f5_tts.types import LossOutput, SpeechBatch, detached, padding_mask


class InfillingLoss:
    """Infilling loss: the velocity from noise to speech is predicted on a masked span of each utterance."""

    def __init__(self, settings: ModelConfig) -> None:
        self.settings = settings
        self.frames_per_second = settings.mel_spec.frames_per_second

    def __call__(self, policy: CFM, batches: list[SpeechBatch]) -> Iterator[LossOutput]:
        """Yield the loss of one update in slices, one per batch, weighted by its number of frames."""
        # read before the first pass: a GPU would be waited for in each of them
        masks = [padding_mask(batch.lens, batch.mel.shape[1]) for batch in batches]
        num_frames = torch.stack([batch.lens.sum() for batch in batches]).tolist()
        for batch, mask, frames in zip(batches, masks, num_frames, strict=True):
            output, seconds = self.batch_loss(policy, batch, mask), frames / self.frames_per_second
            yield LossOutput(loss=output.loss * (frames / sum(num_frames)), metrics=output.metrics, seconds=seconds)

    def batch_loss(self, policy: CFM, batch: SpeechBatch, mask: Tensor | None) -> LossOutput:
        """Compute the loss of one batch with random spans, times, noise and dropped conditions."""
        speech, settings = batch.mel, self.settings
        span = self.spans(batch)
        noise, time = torch.randn_like(speech), self.times(len(speech)).to(speech)
        blank_both = torch.rand(len(speech), device=speech.device) < settings.cond_drop_prob
        blank_audio = (torch.rand(len(speech), device=speech.device) < settings.audio_drop_prob) | blank_both
        velocity = policy(
            interpolate(noise, speech, time),
            speech.masked_fill(span[..., None], 0.0),
            batch.text,
            time,
            mask,
            drop_audio=blank_audio,
            drop_text=blank_both,
        )
        return self.loss(velocity, speech - noise, time, span)

    def loss(self, velocity: Velocity, target: Tensor, time: Tensor, span: Tensor) -> LossOutput:
        """Compute the MSE, or the NLL with the MSE as an additional metric."""
        mse = velocity_mse(velocity.mean, target, span)
        if self.settings.objective == "mse":
            return LossOutput(loss=mse, metrics={"loss": mse.detach()})
        nll = gaussian_nll(velocity, target, time, span, self.settings.nll_t2)
        assert velocity.ln_sigma is not None
        sigma = span_mean(velocity.ln_sigma.detach().exp(), span)
        metrics = {"loss": nll, "loss/nll": nll, "loss/mse": mse, "policy/sigma_mean": sigma}
        return LossOutput(loss=nll, metrics=detached(metrics))

    def times(self, num: int) -> Tensor:
        """Draw training times: uniform, or denser near noise, as a solver with sway -1 visits them."""
        uniform = torch.rand(num)
        return sway(uniform, -1.0) if self.settings.time_sampling == "sway" else uniform

    def spans(self, batch: SpeechBatch) -> Tensor:
        """Draw the masked frames: random spans.

        For items with a prompt of their own, all frames after the prompt are masked instead with probability 1/2.
        """
        num, length, device = len(batch.lens), batch.mel.shape[1], batch.mel.device
        low, high = self.settings.frac_lengths_mask
        fractions, positions, coin = torch.rand(3, num, device=device)
        spans = random_spans(batch.lens, low + (high - low) * fractions, positions, length)
        after_prompt = (batch.prompt_lens > 0) & (coin < 0.5)
        return torch.where(after_prompt[:, None], span_mask(batch.prompt_lens, batch.lens, length), spans)
