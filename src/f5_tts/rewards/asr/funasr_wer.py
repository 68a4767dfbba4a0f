"""Error rate by FunASR's SenseVoiceSmall in five languages."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from f5_tts.rewards.asr.error_rate import language_of, tokens
from f5_tts.rewards.asr.sensevoice import LANGUAGES, SenseVoice, find_directory
from f5_tts.rewards.asr.transcript_reward import TranscriptReward, with_prompt
from f5_tts.rewards.audio import fingerprint, shared_rate
from f5_tts.types import RewardInput

CACHE_SIZE = 1024  # cached transcripts of target recordings
CHOICES = {"lang": LANGUAGES, "wer_mode": ("char", "word"), "ref_source": ("text", "audio")}


class FunasrWer(TranscriptReward):
    """Reward by the error rate of SenseVoiceSmall transcripts.

    The components are those of `TranscriptReward`. Both texts are compared as the tokens of `error_rate.tokens`.

    Args:
        model_id: directory of SenseVoiceSmall, or its name on the hub.
        device: torch device of the model.
        lang: language of all clips. With auto, each input's own language is used if the model knows it; else the model
            detects the language, and the comparison takes it from the script of the text.
        wer_mode: unit of an error: char | word. For characters the rate is also reported as `cer`.
        ref_source: text | audio. With audio, the reference is the model's transcript of `target_audio`, so that the
            model's own errors do not count; the score is NaN where that audio is missing or has no words.
        batch_size: clips per forward pass.
    """

    requires = ("funasr", "sentencepiece")
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
    ):
        for key, value in {"lang": lang, "wer_mode": wer_mode, "ref_source": ref_source}.items():
            if value not in CHOICES[key]:
                raise ValueError(f"funasr_wer: config.{key}={value!r} is none of {', '.join(CHOICES[key])}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"funasr_wer: config.batch_size must be a whole number from 1, got {batch_size!r}")
        self.lang, self.wer_mode, self.from_audio = lang, wer_mode, ref_source == "audio"
        self.rate = "cer" if wer_mode == "char" else "wer"
        self.recognizer = SenseVoice(find_directory(model_id), device, batch_size)
        self._cache: dict[bytes, str] = {}

    def transcribe_inputs(self, inputs: Sequence[RewardInput]) -> list[str]:
        """Transcribe each clip, together with its prompt where the reference is the text."""
        clips = [item.audio if self.from_audio else with_prompt(item) for item in inputs]
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
        language = self.language_for(item)
        return tokens(text, language_of(item.text) if language == "auto" else language, self.wer_mode)

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
