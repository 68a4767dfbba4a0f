"""A model speaks a list of held-out items, and recognisers and the speaker encoder say how well."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from time import perf_counter

import torch
from torch import Tensor

from f5_tts.config.schema import EvalConfig, RunConfig
from f5_tts.data.audio import load_audio
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.eval.results import HEARD, named_metrics
from f5_tts.eval.statistics import Score
from f5_tts.eval.test_set import EvalItem
from f5_tts.infer.sample import Request, speak
from f5_tts.infer.synthesizer import render
from f5_tts.model.build import build_model, build_vocoder
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import HEAD, Checkpoint, load_weights
from f5_tts.model.flow import time_grid
from f5_tts.model.mel import LogMel, frames_in
from f5_tts.rewards.asr.error_rate import char_errors, leaks, stutters, word_errors
from f5_tts.rewards.registry import build_providers, score_all
from f5_tts.rewards.speaker.voice_sim import VoiceSim
from f5_tts.types import RewardInput, RewardProvider, Vocoder

Transcribe = Callable[[list[Tensor], int], list[str]]
Judges = Mapping[str, RewardProvider]
VOICE = "voice"
SIMILARITY = f"{VOICE}.{VoiceSim.component}"


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
    items: Sequence[EvalItem], clips: list[Tensor], voice: Voice, transcribe: Transcribe, judges: Judges
) -> list[Score]:
    """Errors and similarity of each clip, and what other judges say of it."""
    heard, judged = transcribe(clips, voice.sample_rate), opinions(items, clips, voice, judges)
    return [score_of(*each) for each in zip(items, heard, judged, strict=True)]


def score_of(item: EvalItem, heard: str, judged: Mapping[str, float]) -> Score:
    """What an item's clip is worth, of which that was heard and these judges said that."""
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
        similarity=judged[SIMILARITY],
        hypothesis=heard,
        opinions={name.rpartition(".")[2]: value for name, value in judged.items() if name != SIMILARITY},
    )


def build_judges(settings: EvalConfig) -> dict[str, RewardProvider]:
    """Who knows voices, and those of eval.providers.

    Raises ValueError where two of these call what they say the same, or as an evaluation calls something else.
    """
    judges = build_providers(settings.providers, "eval.providers")
    names = [judge.component for judge in judges.values()]
    taken = sorted({name for name in names if names.count(name) > 1 or name in (*HEARD, "sim", "rtf")})
    if taken:
        raise ValueError(f"eval.providers: eval/{taken[0]} would be two things; let one `component` have another name")
    return {VOICE: VoiceSim(), **judges}


def opinions(items: Sequence[EvalItem], clips: list[Tensor], voice: Voice, judges: Judges) -> list[dict[str, float]]:
    """What the judges say of each clip, by "<judge>.<component>"."""
    parts = score_all(judges, reward_inputs(items, clips, voice)).parts
    return [dict(zip(parts, scores, strict=True)) for scores in torch.stack(list(parts.values()), dim=1).tolist()]


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
        from f5_tts.eval.whisper_judge import WhisperJudge

        return WhisperJudge().transcribe
    from f5_tts.rewards.asr.digits_wer import DigitsWer

    return DigitsWer().transcribe


@dataclass(frozen=True, kw_only=True)
class Exam:
    """The same items, noise and guidance for whatever model comes, in a few numbers."""

    items: Sequence[EvalItem]
    voice: Voice
    recognisers: Mapping[str, Transcribe]  # by their names in eval.recognisers
    judges: Judges
    cfg_strength: float

    def __call__(self, model: CFM) -> dict[str, float]:
        """What is measured, named as in docs/metrics.md; reads no random state."""
        voice, items, started = self.voice, self.items, perf_counter()
        clips = voice.speak(model, items, self.cfg_strength, quiet=True)
        rtf = voice.real_time_factor(perf_counter() - started, clips)
        judged = opinions(items, clips, voice, self.judges)
        heard = {name: hear(clips, voice.sample_rate) for name, hear in self.recognisers.items()}
        scores = {
            name: [score_of(*each) for each in zip(items, texts, judged, strict=True)] for name, texts in heard.items()
        }
        return named_metrics(scores, rtf)


def speaking_model(run: RunConfig, checkpoint: Checkpoint, vocabulary: Vocabulary) -> CFM:
    """The checkpoint's model, with a head if it has one."""
    run.model.output_dist = "gaussian" if checkpoint.has_head else "deterministic"
    model = build_model(run.model, vocabulary).eval()
    load_weights(model, checkpoint)
    return model


def build_voice(run: RunConfig, vocabulary: Vocabulary) -> Voice:
    mel_spec = run.model.mel_spec
    return Voice(mel=LogMel(mel_spec), vocoder=build_vocoder(run.model), vocabulary=vocabulary, settings=run.eval)


def fingerprint(run: RunConfig, checkpoint: Checkpoint, vocabulary: Vocabulary, items: list[EvalItem]) -> str:
    """A digest of all that decides what is spoken and how it is graded; a Gaussian head only where it is drawn from."""
    digest = sha256()
    for name, value in sorted(checkpoint.weights.items()):
        if run.model.sample_from_dist or not name.startswith(HEAD):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
    free = ("ckpt", "out", "known", "best_of", "every_updates")
    settings = {key: value for key, value in asdict(run.eval).items() if key not in free}
    texts = [asdict(run.model), settings, vocabulary.symbols, [asdict(item) for item in items]]
    digest.update(json.dumps(texts).encode())
    return digest.hexdigest()
