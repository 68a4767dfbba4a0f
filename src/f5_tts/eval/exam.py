"""A model speaks a list of held-out items, and recognisers and the speaker encoder say how well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

from torch import Tensor

from f5_tts.data.audio import load_audio
from f5_tts.data.text import Vocabulary
from f5_tts.eval.items import EvalItem
from f5_tts.eval.results import named_metrics
from f5_tts.eval.statistics import Score
from f5_tts.infer.sample import Request, speak
from f5_tts.infer.speaker import render
from f5_tts.model.cfm import CFM
from f5_tts.model.flow import time_grid
from f5_tts.model.mel import LogMel, frames_in
from f5_tts.rewards.provider import score_all
from f5_tts.rewards.transcript import char_errors, leaks, stutters, word_errors
from f5_tts.sections import EvalConfig
from f5_tts.types import RewardInput, RewardProvider, Vocoder

Transcribe = Callable[[list[Tensor], int], list[str]]


@dataclass(frozen=True, kw_only=True)
class Voice:
    """What turns items into audio: the same for every model that is compared."""

    mel: LogMel
    vocoder: Vocoder
    vocabulary: Vocabulary
    settings: EvalConfig

    @property
    def sample_rate(self) -> int:
        return self.mel.spec.target_sample_rate

    def request(self, item: EvalItem, place: int) -> Request:
        """`place` in the list seeds the noise, so that every model starts an item from the same noise."""
        return Request(
            prompt_mel=self.mel(self.prompt(item)[None])[0],
            text=f"{item.prompt_text} {item.text}",
            frames=frames_in(item.duration, self.mel.spec),
            seed=self.settings.seed + place,
        )

    def prompt(self, item: EvalItem) -> Tensor:
        return load_audio(item.prompt_audio, self.sample_rate)

    def speak(self, model: CFM, items: Sequence[EvalItem], cfg_strength: float, *, quiet: bool = False) -> list[Tensor]:
        """A waveform for each item, batched by length; `quiet`: without a progress bar."""
        requests = [self.request(item, place) for place, item in enumerate(items)]
        times = time_grid(self.settings.steps, self.settings.sway_sampling_coef)

        def mels(batch: list[Request]) -> list[Tensor]:
            return speak(model, batch, self.vocabulary, times, cfg_strength)

        title = None if quiet else f"speaking, guidance {cfg_strength:g}"
        sounds = render(requests, mels, self.vocoder, batch_size=self.settings.batch_size, title=title)
        return [sound.wave for sound in sounds]

    def real_time_factor(self, seconds: float, clips: Iterable[Tensor]) -> float:
        """Seconds of computing for a second of speech."""
        return seconds * self.sample_rate / sum(map(len, clips))


def grade(
    items: Sequence[EvalItem], clips: list[Tensor], voice: Voice, transcribe: Transcribe, encoder: RewardProvider
) -> list[Score]:
    """Errors and similarity of each clip."""
    heard, similar = transcribe(clips, voice.sample_rate), similarities(items, clips, voice, encoder)
    return [score_of(*each) for each in zip(items, heard, similar, strict=True)]


def score_of(item: EvalItem, heard: str, similarity: float) -> Score:
    """What an item's clip is worth, of which that was heard."""
    (edits, words), (char_edits, chars) = word_errors(item.text, heard), char_errors(item.text, heard)
    return Score(
        id=item.id,
        seen=item.seen,
        edits=edits,
        words=words,
        char_edits=char_edits,
        chars=chars,
        stutters=stutters(item.text, heard),
        leaks=leaks(item.prompt_text, item.text, heard),
        similarity=similarity,
        hypothesis=heard,
    )


def similarities(items: Sequence[EvalItem], clips: list[Tensor], voice: Voice, encoder: RewardProvider) -> list[float]:
    """Of each clip's voice to its prompt's."""
    (scores,) = score_all({"voice": encoder}, reward_inputs(items, clips, voice)).parts.values()
    return scores.tolist()


def reward_inputs(items: Sequence[EvalItem], clips: list[Tensor], voice: Voice) -> list[RewardInput]:
    """Each clip with what it should say, and in whose voice."""
    return [
        RewardInput(audio=clip, sample_rate=voice.sample_rate, text=item.text, reference_audio=voice.prompt(item))
        for item, clip in zip(items, clips, strict=True)
    ]


def error_rates(
    items: Sequence[EvalItem], clips: Mapping[float, list[Tensor]], sample_rate: int, transcribe: Transcribe
) -> dict[str, float]:
    """The error rate at each guidance strength, from what the model said of the items with it."""
    return {f"{strength:g}": error_rate(items, spoken, sample_rate, transcribe) for strength, spoken in clips.items()}


def error_rate(items: Sequence[EvalItem], clips: list[Tensor], sample_rate: int, transcribe: Transcribe) -> float:
    """All edits over all words."""
    heard = transcribe(clips, sample_rate)
    counts = [word_errors(item.text, text) for item, text in zip(items, heard, strict=True)]
    return sum(edits for edits, _ in counts) / sum(words for _, words in counts)


def build_recogniser(name: str) -> Transcribe:
    """pocketsphinx, which is the reward's, or whisper, which never is one."""
    if name == "whisper":
        from f5_tts.eval.judge import WhisperJudge

        return WhisperJudge().transcribe
    from f5_tts.rewards.digits_wer import DigitsWer

    return DigitsWer().transcribe


@dataclass(frozen=True, kw_only=True)
class Exam:
    """The same items, noise and guidance for whatever model comes, in a few numbers."""

    items: Sequence[EvalItem]
    voice: Voice
    recognisers: Mapping[str, Transcribe]  # by their names in eval.recognisers
    encoder: RewardProvider  # of voices
    cfg_strength: float

    def __call__(self, model: CFM) -> dict[str, float]:
        """What is measured, named as in docs/metrics.md; reads no random state."""
        voice, items, started = self.voice, self.items, perf_counter()
        clips = voice.speak(model, items, self.cfg_strength, quiet=True)
        rtf = voice.real_time_factor(perf_counter() - started, clips)
        similar = similarities(items, clips, voice, self.encoder)
        heard = {name: hear(clips, voice.sample_rate) for name, hear in self.recognisers.items()}
        scores = {
            name: [score_of(*each) for each in zip(items, texts, similar, strict=True)] for name, texts in heard.items()
        }
        return named_metrics(scores, rtf)
