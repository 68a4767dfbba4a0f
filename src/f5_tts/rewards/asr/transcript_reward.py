"""Rewards clips that say their text: the error rate of what is heard, whatever recogniser hears it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.rewards.asr.error_rate import error_rates, normalize
from f5_tts.rewards.audio import shared_rate, usable_indices
from f5_tts.types import RewardInput


class TranscriptReward(ABC):
    """Scores by `hear`, which subclasses give.

    Components: `acc`, which is 1 - wer, at least 0; `wer`, errors per symbol of the reference, which may pass 1, also
    called `cer` where symbols are characters, and its parts `ins`, `del`, `sub`; `unusable`, 1 where the clip holds no
    sound to judge, else 0; `heard`, the text. A clip without sound has the `wer` of silence, 1, and nothing is heard in
    it. Without a reference, rates are NaN.
    """

    component = "acc"
    rate = "wer"  # what everybody calls the error rate, by what `symbols` gives: wer (words) or cer (characters)

    @abstractmethod
    def transcribe_inputs(self, inputs: Sequence[RewardInput]) -> list[str]:
        """What is said in each clip, with its lead where it has one; all of them hold sound."""

    def references(self, inputs: Sequence[RewardInput]) -> list[str | None]:
        """What should have been heard; None where nobody knows."""
        return [item.text for item in inputs]

    def tokens(self, text: str, item: RewardInput) -> list[str]:
        """What is compared of a text, an item's own or what was heard instead."""
        return normalize(text).split()

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        """The components, by name. All inputs must have one sample rate, or it is a ValueError."""
        return self.score_transcripts(inputs, self.transcripts(inputs))

    def score_transcripts(self, inputs: Sequence[RewardInput], transcripts: Sequence[str | None]) -> dict[str, Any]:
        """The components of what was heard in each clip."""
        references = self.references(inputs)
        rates = torch.tensor(
            [self.rates(*triple) for triple in zip(inputs, references, transcripts, strict=True)]
        ).view(-1, 3)
        wer, by_kind = rates.sum(dim=1), dict(zip(("ins", "del", "sub"), rates.T, strict=True))
        unusable = torch.tensor([float(text is None) for text in transcripts])
        texts = [text or "" for text in transcripts]
        return {
            "acc": 1 - wer.clamp(max=1),
            "wer": wer,
            self.rate: wer,
            **by_kind,
            "unusable": unusable,
            "heard": texts,
        }

    def transcripts(self, inputs: Sequence[RewardInput]) -> list[str | None]:
        """What is said in each clip; None where there is no sound to judge."""
        usable = usable_indices([item.audio for item in inputs], shared_rate(inputs))
        texts = dict(zip(usable, self.transcribe_inputs([inputs[i] for i in usable]) if usable else [], strict=True))
        return [texts.get(i) for i in range(len(inputs))]

    def rates(self, item: RewardInput, reference: str | None, transcript: str | None) -> tuple[float, float, float]:
        """Inserted, left out, mistaken, per symbol of what is wanted."""
        if reference is None:
            return math.nan, math.nan, math.nan
        if transcript is None:
            return 0.0, 1.0, 0.0
        return error_rates(self.tokens(reference, item), self.tokens(transcript, item))


def with_prompt(item: RewardInput) -> Float[Tensor, " nw"]:
    """All that the input's text covers: the clip, after its lead where it has one."""
    return item.audio if item.prompt_audio is None else torch.cat([item.prompt_audio.to(item.audio), item.audio])
