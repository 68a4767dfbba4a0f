"""Error-rate rewards, independent of the recognizer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from f5_tts.data.texts import normalize
from f5_tts.rewards.asr.error_rate import error_rates, word_scores
from f5_tts.rewards.asr.normal_form import normal_form, words_of
from f5_tts.rewards.audio import shared_rate, usable_indices
from f5_tts.types import RewardInput


class TranscriptReward(ABC):
    """Base class of error-rate rewards; subclasses implement `transcribe`.

    Components: `acc` = max(0, 1 - wer). `wer`: errors per token of the reference, which can be above 1; also reported
    as `cer` where tokens are characters. `ins`, `del`, `sub`: its three parts. `unusable`: 1 where the clip cannot be
    scored, else 0. `heard`: the transcript.

    `languages`: the codes of the languages that the recognizer knows; None: not known. `known_words`: the only words
    that it can transcribe; None: any. `title`: the recognizer's name in tables.

    A clip that cannot be scored has `wer` 1 and an empty transcript. Any other clip without a reference, or whose
    reference has no token, has rates of NaN.
    """

    component = "acc"
    needs_words = True
    languages: tuple[str, ...] | None = None
    known_words: frozenset[str] | None = None
    title = ""
    rate = "wer"  # usual name of the error rate: wer (tokens are words) or cer (characters)

    @abstractmethod
    def transcribe_inputs(self, inputs: Sequence[RewardInput]) -> list[str]:
        """Transcribe each clip, together with its prompt where it has one; only usable clips are passed."""

    def references(self, inputs: Sequence[RewardInput]) -> list[str | None]:
        """Return the text to compare each transcript with, or None if it is unknown."""
        return [item.text for item in inputs]

    def tokens(self, text: str, item: RewardInput) -> list[str]:
        """Split a text, of the input or of its transcript, into the tokens that are compared."""
        return normalize(text).split()

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        """Transcribe and score the clips; raise ValueError if their sample rates differ."""
        return self.score_transcripts(inputs, self.transcripts(inputs))

    def score_transcripts(self, inputs: Sequence[RewardInput], transcripts: Sequence[str | None]) -> dict[str, Any]:
        """Compute all components from the transcripts."""
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
        """Transcribe the usable clips; return None for the others."""
        usable = usable_indices([item.audio for item in inputs], shared_rate(inputs))
        texts = dict(zip(usable, self.transcribe_inputs([inputs[i] for i in usable]) if usable else [], strict=True))
        return [texts.get(i) for i in range(len(inputs))]

    def rates(self, item: RewardInput, reference: str | None, transcript: str | None) -> tuple[float, float, float]:
        """Return insertions, deletions and substitutions per token of the reference."""
        if reference is not None and transcript is None:
            return 0.0, 1.0, 0.0
        expected = self.tokens(reference or "", item)
        if not expected:
            return math.nan, math.nan, math.nan
        return error_rates(expected, self.tokens(transcript or "", item))


class SpokenTextReward(TranscriptReward):
    """Base class of error-rate rewards in many languages: texts are compared as the words of their normal form.

    Each character of a script without spaces is a word.
    """

    @abstractmethod
    def text_language(self, item: RewardInput) -> str:
        """Return the language code of an input; an empty string if it is not known."""

    def tokens(self, text: str, item: RewardInput) -> list[str]:
        """Split the normal form of a text into words."""
        return words_of(normal_form(text, self.text_language(item)))


def with_prompt(item: RewardInput) -> Float[Tensor, " nw"]:
    """Return the audio that the text covers: prompt and clip, or the clip if there is no prompt."""
    return item.audio if item.prompt_audio is None else torch.cat([item.prompt_audio.to(item.audio), item.audio])


def transcript_word_scores(inputs: Sequence[RewardInput], transcripts: Sequence[str | None]) -> Float[Tensor, "b w"]:
    """Score each word of the texts by the transcripts (`word_scores`); NaN after the last word of a text."""
    pairs = zip(inputs, transcripts, strict=True)
    scores = [torch.tensor(word_scores(item.text, transcript or "")) for item, transcript in pairs]
    return pad_sequence(scores, batch_first=True, padding_value=math.nan)
