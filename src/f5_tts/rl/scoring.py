"""Scoring of rollouts: vocoder, reward providers, and their combination to one reward per sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from f5_tts.config.schema import MelSpecConfig, RLConfig
from f5_tts.data.texts import normalize
from f5_tts.rewards.combine import check_gates, combine
from f5_tts.rewards.registry import component_weights, has_word_scores, provider_loss, score_all
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.rl.augment import augment
from f5_tts.types import (
    DifferentiableReward,
    ProviderScores,
    RewardBatch,
    RewardInput,
    RewardProvider,
    Rollout,
    SpeechBatch,
    Vocoder,
)


class RewardScorer:
    """Vocoder and rewards of a run; rewards get the generated span only, without prompt and padding."""

    def __init__(
        self, vocoder: Vocoder, providers: Mapping[str, RewardProvider], rl: RLConfig, mel_spec: MelSpecConfig
    ) -> None:
        self.vocoder, self.providers, self.rl, self.mel_spec = vocoder, providers, rl, mel_spec
        entries = rl.rewards.providers
        self.weights = component_weights(entries, providers)
        self.floors = {name: entry.floor for name, entry in zip(self.weights, entries, strict=True)}
        self.teachers = differentiable_rewards(providers, vocoder, rl)
        self.loss_weights = {f"{entry.name}.loss": -entry.weight for entry in entries if entry.name in self.teachers}
        check_gates(rl.rewards.gates, [*self.weights, *self.loss_weights], providers)
        self.by_word = rl.credit == "word"
        if self.by_word and not any(map(has_word_scores, providers.values())):
            raise ValueError(
                f"rl.credit=word, but none of the rewards ({', '.join(providers)}) returns a score for each word: add "
                "one that does, such as digits_wer, or set rl.credit=sample"
            )

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> RewardBatch:
        """Vocode the samples of a rollout and compute their combined rewards."""
        scores = score_all(self.providers, self.inputs(rollout))
        texts, target = rollout.batch.target_texts, rollout.target_mask
        frame_scores: dict[str, Tensor] = {}
        if self.by_word:
            scores = average_word_scores(scores)
            frame_scores = {name: words_to_frames(words, texts, target) for name, words in scores.word_scores.items()}
        gates = [gate for gate in self.rl.rewards.gates if gate.reward in self.weights]
        rewards = combine(scores, self.weights, gates, frame_scores)
        return replace(rewards, seconds=int(target.sum()) / self.mel_spec.frames_per_second)

    def differentiate(self, rollout: Rollout) -> tuple[RewardBatch, Float[Tensor, "b n d"]]:
        """Compute the reward losses of a rollout, and the gradient of their weighted sum with respect to its log-mel.

        Losses are components `<provider>.loss` with negative weights. Rewards without a loss are only reported.
        """
        reported = {name: provider for name, provider in self.providers.items() if name not in self.teachers}
        scores = score_all(reported, self.inputs(rollout)) if reported else ProviderScores({}, {})
        with torch.enable_grad():
            mel = rollout.mel.detach().float().requires_grad_()
            losses = self.losses(mel, rollout)
            known = replace(scores, components=losses, diagnostics=scores.diagnostics | scores.components)
            gates = [gate for gate in self.rl.rewards.gates if gate.reward in losses]
            rewards = combine(known, self.loss_weights, gates, {})
            (gradient,) = torch.autograd.grad(-rewards.total.sum(), mel) if rewards.total.requires_grad else (0 * mel,)
        detached = {name: loss.detach() for name, loss in rewards.components.items()}
        seconds = int(rollout.target_mask.sum()) / self.mel_spec.frames_per_second
        return replace(rewards, total=rewards.total.detach(), components=detached, seconds=seconds), gradient.detach()

    def losses(self, mel: Float[Tensor, "b n d"], rollout: Rollout) -> dict[str, Float[Tensor, " b"]]:
        """Compute the reward losses, by "<provider>.loss"; some rewards take what rl.draft.augmentation changed."""
        inputs = {
            unchanged: self.differentiable_inputs(mel if unchanged else self.augmented(mel, rollout), rollout)
            for unchanged in sorted(set(map(takes_unchanged, self.teachers.values())))
        }
        return {
            f"{name}.loss": provider_loss(reward, name, inputs[takes_unchanged(reward)])
            for name, reward in self.teachers.items()
        }

    def augmented(self, mel: Float[Tensor, "b n d"], rollout: Rollout) -> Float[Tensor, "b n d"]:
        """Change the log-mel as rl.draft.augmentation says."""
        return augment(mel, rollout.target_mask, self.rl.draft.augmentation)

    def differentiable_inputs(self, mel: Float[Tensor, "b n d"], rollout: Rollout) -> list[RewardInput]:
        """Build the inputs of reward losses: log-mels with gradients and, where a reward takes it, audio with them."""
        spans = [row[target] for row, target in zip(mel, rollout.target_mask, strict=True)]
        if any(reward.takes == "wave" for reward in self.teachers.values()):
            clips = self.vocoder(pad_sequence(spans, batch_first=True), rollout.target_mask.sum(dim=1))
        else:
            clips = [mel.new_zeros(0)] * len(spans)
        return [
            replace(self.input(clip, rollout.batch, index), mel=span, mel_spec=self.mel_spec)
            for index, (clip, span) in enumerate(zip(clips, spans, strict=True))
        ]

    @torch.no_grad()
    def inputs(self, rollout: Rollout) -> list[RewardInput]:
        """Vocode the generated spans and build the reward input of each sample."""
        spans = [mel[target] for mel, target in zip(rollout.mel, rollout.target_mask, strict=True)]
        clips = self.vocoder(pad_sequence(spans, batch_first=True), rollout.target_mask.sum(dim=1))
        return [self.input(clip, rollout.batch, index) for index, clip in enumerate(clips)]

    def input(self, clip: Tensor, batch: SpeechBatch, index: int) -> RewardInput:
        """Build the reward input of one sample.

        A prompt that is a recording of its own is the reference of speaker similarity. A prompt that was cut from the
        clip is the beginning of its text, and too short to identify a speaker: there the whole recording is the
        reference.
        """
        audio, text = batch.audio[index], batch.target_texts[index]
        row = batch.rows[index] if batch.rows else {}
        prompt, target = audio.tensor_split([int(batch.prompt_lens[index]) * self.mel_spec.hop_length])
        is_cut = self.rl.prompt_frac_range is not None
        prompt_text = batch.prompt_texts[index] if batch.prompt_texts else ""
        return RewardInput(
            audio=clip,
            sample_rate=self.mel_spec.target_sample_rate,
            text=text,
            language=str(row.get("language") or "auto"),
            prompt_audio=prompt if is_cut else None,
            reference_audio=audio if is_cut else prompt,
            reference_text=text if is_cut else prompt_text,
            target_audio=target,
            row=row,
        )


def takes_unchanged(reward: DifferentiableReward) -> bool:
    """Check whether a reward takes log-mels without rl.draft.augmentation."""
    return getattr(reward, "takes_unchanged", False)


def differentiable_rewards(
    providers: Mapping[str, RewardProvider], vocoder: Vocoder, rl: RLConfig
) -> dict[str, DifferentiableReward]:
    """Find the rewards that teach by their gradients; none unless rl.algorithm or rl.draft.weight asks for them.

    Raises ValueError for a reward of rl.algorithm=draft without a gradient, for one that takes audio from a vocoder
    without gradients, and where no reward is left.
    """
    alone = find_algorithm(rl.algorithm).uses_reward_gradients
    if not alone and rl.draft.weight == 0:
        return {}
    teachers: dict[str, DifferentiableReward] = {}
    for index, entry in enumerate(rl.rewards.providers):
        provider, key = providers[entry.name], f"rl.rewards.providers.{index}"
        if isinstance(provider, DifferentiableReward) and entry.weight != 0:
            check_vocoder(entry.name, provider, vocoder, key)
            teachers[entry.name] = provider
        elif alone and entry.weight != 0:
            where = " in another process" if entry.worker else ""
            raise ValueError(
                f"rl.algorithm={rl.algorithm} learns from the gradients of rewards, and {entry.name}{where} has none "
                f"({key}): set {key}.weight=0 to report it only, or take nft, which learns from scores"
            )
    if not teachers:
        raise ValueError(
            f"none of the rewards ({', '.join(providers)}) has a gradient and a weight, which "
            f"{'rl.algorithm=' + rl.algorithm if alone else 'rl.draft.weight'} needs"
        )
    return teachers


def check_vocoder(name: str, reward: DifferentiableReward, vocoder: Vocoder, key: str) -> None:
    """Raise ValueError unless the vocoder lets gradients through to where a reward takes them."""
    if reward.takes not in ("mel", "wave"):
        raise ValueError(f"{key}: {name} takes {reward.takes!r}; a differentiable reward takes mel or wave")
    if reward.takes == "wave" and not getattr(vocoder, "is_differentiable", False):
        raise ValueError(
            f"{key}: the gradient of {name} reaches the policy through the vocoder, and griffin_lim has no gradient: "
            "set model.vocoder.name=vocos, or take a reward of the log-mel"
        )


def average_word_scores(scores: ProviderScores) -> ProviderScores:
    """Replace the score of a clip by the mean of its word scores, where word scores exist.

    The mean is at least 0, except where the score that it replaces is below 0 itself, as log-likelihoods are.
    """
    means = {name: words.nanmean(dim=1) for name, words in scores.word_scores.items()}
    limited = {name: mean.where(scores.components[name] < 0, mean.clamp(min=0)) for name, mean in means.items()}
    return replace(scores, components=scores.components | limited)


def words_to_frames(
    word_scores: Float[Tensor, "b w"], texts: Sequence[str], target: Bool[Tensor, "b n"]
) -> Float[Tensor, "b n"]:
    """Spread word scores over the generated frames; all other frames get zero, and those of a text without words NaN.

    Words share the frames in proportion to their number of characters, as the text embedding does with average
    upsampling. This approximates when each word is spoken and needs no alignment. Raises ValueError when a reward
    scored fewer words than the text has.
    """
    frames = torch.zeros(target.shape)
    for row, (scores, text) in enumerate(zip(word_scores, texts, strict=True)):
        size = torch.tensor([len(word) + 1 for word in normalize(text).split()])
        if len(size) > len(scores):
            raise ValueError(
                f"a reward with scores per word returned {len(scores)} for the {len(size)} words of {text!r}"
            )
        if not len(size):
            frames[row, target[row].cpu()] = math.nan
            continue
        ends = (size.cumsum(0) * int(target[row].sum()) / size.sum()).round().long()
        frames[row, target[row].cpu()] = scores[: len(size)].repeat_interleave(ends.diff(prepend=ends.new_zeros(1)))
    return frames
