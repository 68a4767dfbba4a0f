"""Rollout -> audio -> RewardBatch; the one place that knows vocoder and rewards together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from f5_tts.config import MelSpecConfig, ProviderConfig
from f5_tts.rewards.combine import combine
from f5_tts.rewards.provider import component_weights, score_all
from f5_tts.types import RewardBatch, RewardInput, RewardProvider, Rollout

Vocoder = Callable[[Tensor, Tensor], list[Tensor]]  # log-mels b n d and their lengths in frames -> waveforms


class Scorer:
    """Speaks a rollout and asks every reward; rewards see the generated span alone, no prompt, no padding."""

    def __init__(
        self,
        vocoder: Vocoder,
        providers: Mapping[str, RewardProvider],
        entries: Sequence[ProviderConfig],
        mel_spec: MelSpecConfig,
    ) -> None:
        self.vocoder, self.providers, self.mel_spec = vocoder, providers, mel_spec
        self.weights = component_weights(entries, providers)
        self.floors = {name: entry.floor for name, entry in zip(self.weights, entries, strict=True)}

    def __call__(self, rollout: Rollout) -> RewardBatch:
        return combine(score_all(self.providers, self.inputs(rollout)), self.weights)

    def inputs(self, rollout: Rollout) -> list[RewardInput]:
        """One clip a sample, with what it should say and the voice it should have."""
        batch, hop = rollout.batch, self.mel_spec.hop_length
        spans = [mel[target] for mel, target in zip(rollout.mel, rollout.target, strict=True)]
        clips = self.vocoder(pad_sequence(spans, batch_first=True), rollout.target.sum(dim=1))
        return [
            RewardInput(
                audio=clip,
                sample_rate=self.mel_spec.target_sample_rate,
                text=text,
                reference_audio=audio[: int(frames) * hop],
            )
            for clip, text, audio, frames in zip(clips, batch.target_texts, batch.audio, batch.prompt_lens, strict=True)
        ]
