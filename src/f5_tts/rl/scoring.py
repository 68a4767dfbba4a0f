"""Rollout -> audio -> RewardBatch; the one place that knows vocoder and rewards together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from f5_tts.config.schema import MelSpecConfig, RLConfig
from f5_tts.rewards.asr.error_rate import normalise
from f5_tts.rewards.combine import check_gates, combine
from f5_tts.rewards.registry import component_weights, knows_words, score_all
from f5_tts.types import (
    RewardBatch,
    RewardInput,
    RewardProvider,
    Rollout,
    Scored,
    SpeechBatch,
    Vocoder,
)


class Scorer:
    """Speaks a rollout and asks every reward; rewards see the generated span alone, no prompt, no padding."""

    def __init__(
        self, vocoder: Vocoder, providers: Mapping[str, RewardProvider], rl: RLConfig, mel_spec: MelSpecConfig
    ) -> None:
        self.vocoder, self.providers, self.rl, self.mel_spec = vocoder, providers, rl, mel_spec
        entries = rl.rewards.providers
        self.weights = component_weights(entries, providers)
        self.floors = {name: entry.floor for name, entry in zip(self.weights, entries, strict=True)}
        check_gates(rl.rewards.gates, self.weights, providers)
        self.by_word = rl.credit == "word"
        if self.by_word and not any(map(knows_words, providers.values())):
            raise ValueError(
                f"rl.credit=word, but none of the rewards ({', '.join(providers)}) can say which word earned it: "
                "add one that can, such as digits_wer, or set rl.credit=sample"
            )

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> RewardBatch:
        scored = score_all(self.providers, self.inputs(rollout))
        texts, target = rollout.batch.target_texts, rollout.target
        frames: dict[str, Tensor] = {}
        if self.by_word:
            scored = with_means_of_words(scored)
            frames = {name: over_frames(words, texts, target) for name, words in scored.words.items()}
        rewards = combine(scored, self.weights, self.rl.rewards.gates, frames)
        return replace(rewards, seconds=int(target.sum()) / self.mel_spec.frames_per_second)

    def inputs(self, rollout: Rollout) -> list[RewardInput]:
        """One clip a sample, with what it should say and the voice it should have."""
        spans = [mel[target] for mel, target in zip(rollout.mel, rollout.target, strict=True)]
        clips = self.vocoder(pad_sequence(spans, batch_first=True), rollout.target.sum(dim=1))
        return [self.input(clip, rollout.batch, place) for place, clip in enumerate(clips)]

    def input(self, clip: Tensor, batch: SpeechBatch, place: int) -> RewardInput:
        """A prompt that is a recording of its own is the voice to match. One that was cut from the clip is the
        beginning of its text, and too short to know a voice by: there the whole recording is what to match."""
        audio, text = batch.audio[place], batch.target_texts[place]
        row = batch.rows[place] if batch.rows else {}
        prompt, target = audio.tensor_split([int(batch.prompt_lens[place]) * self.mel_spec.hop_length])
        is_cut = self.rl.prompt_frac_range is not None
        prompt_text = batch.prompt_texts[place] if batch.prompt_texts else ""
        return RewardInput(
            audio=clip,
            sample_rate=self.mel_spec.target_sample_rate,
            text=text,
            language=str(row.get("language") or "auto"),
            lead=prompt if is_cut else None,
            reference_audio=audio if is_cut else prompt,
            reference_text=text if is_cut else prompt_text,
            target_audio=target,
            row=row,
        )


def with_means_of_words(scored: Scored) -> Scored:
    """A clip's score is the mean over its words, at least 0, where these are known."""
    means = {name: words.nanmean(dim=1).clamp(min=0) for name, words in scored.words.items()}
    return replace(scored, parts=scored.parts | means)


def over_frames(words: Float[Tensor, "b w"], texts: Sequence[str], target: Bool[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Each word's score on its share of the generated frames, zero elsewhere.

    Words share the frames by their number of characters, as the text embedding does with average upsampling: a guess
    at when each is said that needs no alignment.
    """
    frames = torch.zeros(target.shape)
    for row, (scores, text) in enumerate(zip(words, texts, strict=True)):
        size = torch.tensor([len(word) + 1 for word in normalise(text).split()])
        if len(size) > len(scores):
            raise ValueError(f"a reward that knows words scored {len(scores)} of the {len(size)} in {text!r}")
        ends = (size.cumsum(0) * int(target[row].sum()) / size.sum()).round().long()
        frames[row, target[row].cpu()] = scores[: len(size)].repeat_interleave(ends.diff(prepend=ends.new_zeros(1)))
    return frames
