"""Error rate by FunASR's SenseVoiceSmall in five languages."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from f5_tts.rewards.asr.error_rate import tokens
from f5_tts.rewards.asr.normal_form import language_of
from f5_tts.rewards.asr.sensevoice import LANGUAGES, SenseVoice, find_sensevoice
from f5_tts.rewards.asr.sensevoice_loss import TextLikelihood, token_nats, word_nats
from f5_tts.rewards.asr.transcript_reward import TranscriptReward, with_prompt
from f5_tts.rewards.audio import fingerprint, is_usable, resample_to_16k, shared_rate
from f5_tts.rewards.clip_losses import clip_losses
from f5_tts.types import RewardInput

CACHE_SIZE = 1024  # cached transcripts of target recordings
CHOICES = {
    "lang": LANGUAGES,
    "wer_mode": ("char", "word"),
    "ref_source": ("text", "audio"),
    "component": ("acc", "fit"),
}


class FunasrWer(TranscriptReward):
    """Reward by the error rate of SenseVoiceSmall transcripts, or by the likelihood of the text.

    The components are those of `TranscriptReward`. Both texts are compared as the tokens of `error_rate.tokens`.

    The loss of a clip is cap · tanh(l / cap), where l is the negative log-likelihood of the text's tokens under the
    model, per token, with the text as the model writes it (`sensevoice_loss.written`). The component `fit` is minus
    that loss: -cap where the clip is unusable or too short for the text, NaN for a text without tokens. `words`, with
    component fit unless ref_source is audio: the same of each word of the text, by its tokens alone in the frames that
    the best alignment of the text gives it (`sensevoice_loss.word_nats`); NaN after the last word.

    Args:
        model_id: directory of SenseVoiceSmall, or its name on the hub.
        device: torch device of the model.
        lang: language of all clips. With auto, each input's own language is used if the model knows it; else the model
            detects the language, and the comparison takes it from the script of the text.
        wer_mode: unit of an error: char | word. For characters the rate is also reported as `cer`.
        ref_source: text | audio. With audio, the reference is the model's transcript of `target_audio`, so that the
            model's own errors do not count; the score is NaN where that audio is missing or has no words.
        batch_size: clips per forward pass.
        component: acc | fit. The reward. `fit` is computed in a second forward pass of each clip, only if it is chosen.
        cap: upper bound of the loss, in nats per token. A clip whose loss is far above it has almost no gradient.
    """

    takes = "wave"

    requires = ("funasr", "sentencepiece")
    languages = LANGUAGES[1:]
    title = "SenseVoiceSmall"
    num_parameters = 234_000_000

    def __init__(
        self,
        model_id: str | None,
        *,
        device: str = "cpu",
        lang: str = "auto",
        wer_mode: str = "char",
        ref_source: str = "text",
        batch_size: int = 8,
        component: str = "acc",
        cap: float = 6.0,
    ):
        chosen = {"lang": lang, "wer_mode": wer_mode, "ref_source": ref_source, "component": component}
        for key, value in chosen.items():
            if value not in CHOICES[key]:
                raise ValueError(f"funasr_wer: config.{key}={value!r} is none of {', '.join(CHOICES[key])}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"funasr_wer: config.batch_size must be a whole number from 1, got {batch_size!r}")
        if not isinstance(cap, int | float) or not 0 < cap < math.inf:
            raise ValueError(f"funasr_wer: config.cap must be a number above 0, got {cap!r}")
        self.component, self.cap = component, float(cap)
        self.lang, self.wer_mode, self.from_audio = lang, wer_mode, ref_source == "audio"
        self.has_word_scores = component == "fit" and not self.from_audio
        self.rate = "cer" if wer_mode == "char" else "wer"
        self.recognizer = SenseVoice(find_sensevoice(model_id), device, batch_size)
        self._cache: dict[bytes, str] = {}

    @staticmethod
    def loss_mib(seconds: float, num_clips: int) -> float:
        """Return the memory of the loss of clips of this length (s), forward and backward, in MiB: one at a time."""
        return 37.7 * seconds + 0.57 * seconds**2

    @cached_property
    def likelihood(self) -> TextLikelihood:
        """Build the likelihood of texts when it is first needed."""
        return TextLikelihood(self.recognizer)

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Any]:
        """Transcribe and score the clips; compute `fit` and `words` if `fit` is the reward."""
        scores = super().score(inputs)
        return {**scores, **self.fits(inputs)} if self.component == "fit" else scores

    def loss(self, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]:
        """Compute the loss of each clip, differentiable in its waveform; the prompt that its text covers is prepended.

        NaN where the clip is unusable or its text has no tokens. A clip with too few frames for its text has the loss
        `cap`, without a gradient.
        """
        return self.text_losses(inputs, self.targets(inputs))

    @torch.no_grad()
    def fits(self, inputs: Sequence[RewardInput]) -> dict[str, Tensor]:
        """Compute minus the losses, as scores, of the clips and of their words."""
        rate, targets = shared_rate(inputs), self.targets(inputs)
        nats = [self.clip_nats(item, ids, rate) for item, ids in zip(inputs, targets, strict=True)]
        clips, words = zip(*nats, strict=True)
        by_component = {"fit": torch.stack(clips)}
        if self.has_word_scores:
            by_component["words"] = pad_sequence(list(words), batch_first=True, padding_value=math.nan)
        return {name: -self.limited(values) for name, values in by_component.items()}

    def clip_nats(self, item: RewardInput, ids: list[int], rate: int) -> tuple[Tensor, Tensor]:
        """Compute the negative log-likelihoods of a clip and of each word of its text, per token.

        They are infinite where the clip is unusable or too short, and NaN where the text has no tokens.
        """
        ends = self.likelihood.word_ends(item.text, self.text_language(item)) if self.has_word_scores else []
        scores = self.log_probabilities(item, ids, rate) if ids and is_usable(item.audio, rate) else None
        if scores is None:
            worst = torch.tensor(math.inf if ids else math.nan)
            return worst, worst.expand(len(ends))
        return token_nats(scores, ids).cpu(), word_nats(scores, ids, ends).cpu()

    def text_losses(self, inputs: Sequence[RewardInput], targets: Sequence[list[int]]) -> Float[Tensor, " b"]:
        """Compute the loss of each clip under its target tokens; NaN where it does not apply."""
        rate = shared_rate(inputs)

        def loss(clip: Tensor, index: int) -> Tensor:
            scores = self.log_probabilities(replace(inputs[index], audio=clip), targets[index], rate)
            return 0 * clip.sum() + self.cap if scores is None else self.limited(token_nats(scores, targets[index]))

        pairs = zip(inputs, targets, strict=True)
        return clip_losses([item.audio if ids and is_usable(item.audio, rate) else None for item, ids in pairs], loss)

    def log_probabilities(self, item: RewardInput, ids: list[int], rate: int) -> Float[Tensor, "n v"] | None:
        """Compute the log-probabilities of the tokens at each frame of a clip; None if it is too short for the text."""
        wave = resample_to_16k(self.heard(item), rate)
        if not self.likelihood.fits(len(wave), ids):
            return None
        return self.likelihood.log_probabilities(wave, self.language_for(item))

    def limited(self, nats: Tensor) -> Tensor:
        """Limit negative log-likelihoods smoothly to `cap`."""
        return self.cap * (nats / self.cap).tanh()

    def targets(self, inputs: Sequence[RewardInput]) -> list[list[int]]:
        """Return the tokens of each reference text; none where there is no text."""
        return [
            self.likelihood.token_ids(text or "", self.text_language(item))
            for item, text in zip(inputs, self.references(inputs), strict=True)
        ]

    def heard(self, item: RewardInput) -> Float[Tensor, " nw"]:
        """Return the clip, together with its prompt where the reference is the text."""
        return item.audio if self.from_audio else with_prompt(item)

    def transcribe_inputs(self, inputs: Sequence[RewardInput]) -> list[str]:
        """Transcribe each clip, together with its prompt where the reference is the text."""
        clips = [self.heard(item) for item in inputs]
        return self.recognizer.transcribe(clips, shared_rate(inputs), [self.language_for(item) for item in inputs])

    def references(self, inputs: Sequence[RewardInput]) -> list[str | None]:
        """Return the texts of the inputs, or the transcripts of their target audio."""
        return self.target_transcripts(inputs) if self.from_audio else super().references(inputs)

    def target_transcripts(self, inputs: Sequence[RewardInput]) -> list[str | None]:
        """Transcribe each target recording; cached, because the samples of a group share one target."""
        rate = shared_rate(inputs)
        keys = [self.target_key(item) for item in inputs]
        new = {key: item for key, item in zip(keys, inputs, strict=True) if key and key not in self._cache}
        clips = [item.target_audio for item in new.values() if item.target_audio is not None]
        texts = self.recognizer.transcribe(clips, rate, [self.language_for(item) for item in new.values()])
        self._cache.update(zip(new, texts, strict=True))
        transcripts = [self._cache[key] if key else "" for key in keys]
        for key in list(self._cache)[:-CACHE_SIZE]:
            del self._cache[key]
        return [text or None for text in transcripts]

    def target_key(self, item: RewardInput) -> bytes:
        """Return the cache key of the target recording and its language; empty without a recording."""
        if item.target_audio is None:
            return b""
        return fingerprint(item.target_audio, item.sample_rate) + self.language_for(item).encode()

    def tokens(self, text: str, item: RewardInput) -> list[str]:
        """Split a text into the words or characters that are compared."""
        return tokens(text, self.text_language(item), self.wer_mode)

    def text_language(self, item: RewardInput) -> str:
        """Return the language in which the text of an input is read."""
        language = self.language_for(item)
        return language_of(item.text) if language == "auto" else language

    def language_for(self, item: RewardInput) -> str:
        """Return the language code for the model; warn and return auto for a language it does not know."""
        language = item.language if self.lang == "auto" else self.lang
        if language not in LANGUAGES:
            warnings.warn(
                f"funasr_wer: SenseVoice does not support the language {language!r}; it detects the language itself",
                stacklevel=1,
            )
            return "auto"
        return language
