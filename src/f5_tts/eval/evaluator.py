"""Evaluator: synthesis of a held-out test set, scored by recognizers and a speaker encoder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from itertools import zip_longest
from time import perf_counter
from typing import Any

from torch import Tensor

from f5_tts.config.schema import EvalConfig, TrainConfig, vocab_path
from f5_tts.data.audio import load_audio
from f5_tts.data.tokenizer import Vocabulary, build_vocabulary
from f5_tts.eval.judges import SIMILARITY, Judges, Normalize, item_language, opinion_name
from f5_tts.eval.progress import NOTHING_KEPT, Progress
from f5_tts.eval.results import named_metrics
from f5_tts.eval.statistics import Score
from f5_tts.eval.test_set import EvalItem
from f5_tts.infer.chunking import speech_frames
from f5_tts.infer.load import find_vocabulary
from f5_tts.infer.sample import Request, sample_requests
from f5_tts.infer.synthesizer import MIN_FRAMES, batches_by_length, generate_batched, progress_bar
from f5_tts.model.build import build_model, build_vocoder
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import HEAD, Checkpoint, load_weights
from f5_tts.model.flow import time_grid
from f5_tts.model.mel import LogMel, frames_in
from f5_tts.rewards.asr.error_rate import char_errors, has_prompt_leak, has_repetition, word_errors
from f5_tts.rewards.measures import measure
from f5_tts.types import RewardInput, Vocoder

NO_MATTER = (  # keys of eval that change neither clips nor scores, or do so by the items alone
    *("ckpt", "out", "known", "against", "best_of", "num_wavs", "every_updates", "dev", "dev_items", "forgot"),
    *("items_dir", "list", "dev_list", "recordings", "prompts", "wavs"),
)


@dataclass(frozen=True, kw_only=True)
class EvalAudio:
    """Reader of the recordings of items, at the sample rate of the model."""

    mel: LogMel
    settings: EvalConfig

    @property
    def sample_rate(self) -> int:
        """Return the sample rate of the audio in Hz."""
        return self.mel.spec.target_sample_rate

    def prompt(self, item: EvalItem) -> Tensor:
        """Load the prompt audio of an item."""
        return load_audio(item.prompt_audio, self.sample_rate)

    def target(self, item: EvalItem) -> Tensor | None:
        """Load the recording of an item's text; None where there is none."""
        return load_audio(item.target_audio, self.sample_rate) if item.target_audio else None


@dataclass(frozen=True, kw_only=True)
class EvalSynthesizer(EvalAudio):
    """Synthesizer of test items, with the same settings for every model under comparison."""

    vocoder: Vocoder
    vocabulary: Vocabulary

    def request(self, item: EvalItem, index: int) -> Request:
        """Build the request of an item.

        Its position in the list seeds the noise, so that every model starts from the same noise. Without a duration,
        the frames are those of inference at speed 1, and at least one per symbol.
        """
        prompt_mel, text = self.mel(self.prompt(item)[None])[0], f"{item.prompt_text} {item.text}"
        if item.duration is None:
            by_rate = speech_frames(len(prompt_mel), f"{item.prompt_text} ", item.text, speed=1.0)
            frames = max(by_rate, len(self.vocabulary.split(text)) + 1 - len(prompt_mel), MIN_FRAMES)
        else:
            frames = frames_in(item.duration, self.mel.spec)
        return Request(prompt_mel=prompt_mel, text=text, frames=frames, seed=self.settings.seed + index)

    def synthesize(
        self,
        model: CFM,
        items: Sequence[EvalItem],
        cfg_strength: float,
        *,
        places: Sequence[int] | None = None,
        quiet: bool = False,
        progress: Progress = NOTHING_KEPT,
    ) -> list[Tensor]:
        """Synthesize a waveform for each item, batched by length.

        Args:
            places: positions of the items in the whole list; None: these items are all.
            quiet: whether to hide the progress bar.
            progress: where batches are kept, in a folder named by the guidance; those found there are not made again.
        """
        numbers = range(len(items)) if places is None else places
        requests = [self.request(item, number) for item, number in zip(items, numbers, strict=True)]
        batches = batches_by_length([request.total for request in requests], self.settings.batch_size)
        times = time_grid(self.settings.steps, self.settings.sway_sampling_coef)

        def mels(batch: list[Request]) -> list[Tensor]:
            return sample_requests(model, batch, self.vocabulary, times, cfg_strength)

        def speak(batch: list[int]) -> list[Tensor]:
            chosen, no_bar = [requests[i] for i in batch], progress_bar(None)
            generated = generate_batched(chosen, mels, self.vocoder, batch_size=len(batch), progress=no_bar)
            return [audio.wave for audio in generated]

        title = None if quiet else f"synthesizing, guidance {cfg_strength:g}"
        clips: dict[int, Tensor] = {}
        for number, batch in enumerate(progress_bar(title)(batches)):
            names = [f"{i}_{items[i].id}" for i in batch]
            waves = progress.kept_clips(f"{cfg_strength:g}/{number}", names, partial(speak, batch))
            clips.update(zip(batch, waves, strict=True))
        return [clips[i] for i in range(len(items))]

    def real_time_factor(self, seconds: float, clips: Iterable[Tensor]) -> float:
        """Return the seconds of computation per second of speech."""
        return seconds * self.sample_rate / sum(map(len, clips))


def score_clips(
    items: Sequence[EvalItem],
    clips: list[Tensor],
    reader: EvalAudio,
    judges: Judges,
    progress: Progress = NOTHING_KEPT,
) -> dict[str, list[Score]]:
    """Score each clip by every recognizer, eval.batch_size clips at a time; those kept in `progress` not again."""
    scores: dict[str, list[Score]] = {name: [] for name in judges.recognizers}
    size = reader.settings.batch_size
    for start in range(0, len(items), size):
        part = slice(start, start + size)
        score_part = partial(score_rows, items[part], clips[part], reader, judges)
        for name, rows in progress.kept(f"judged/{start}", score_part).items():
            scores[name] += [Score(**row) for row in rows]
    return scores


def score_rows(
    items: Sequence[EvalItem], clips: list[Tensor], reader: EvalAudio, judges: Judges
) -> dict[str, list[dict[str, Any]]]:
    """Score some clips by every recognizer: word and character errors, speaker similarity and other judges' scores.

    The other judges score each clip once.
    """
    inputs = reward_inputs(items, clips, reader)
    values, measured = judges.scores(inputs), [measure(clip) for clip in inputs]
    languages = [item_language(item, reader.settings) for item in items]

    def rows(transcripts: list[str]) -> list[dict[str, Any]]:
        clips_heard = zip(items, transcripts, values, languages, measured, strict=True)
        return [
            asdict(score_clip(item, text, scores, judges.normalize, language, measures))
            for item, text, scores, language, measures in clips_heard
        ]

    return {name: rows(judges.transcribe(name, inputs)) for name in judges.recognizers}


def score_clip(
    item: EvalItem,
    transcript: str,
    judge_values: Mapping[str, float],
    normalize: Normalize,
    language: str,
    measures: Mapping[str, float] | None = None,
) -> Score:
    """Compute the score of one clip from its transcript and the judges' scores, in the normal form of the language."""
    text, heard, prompt = (normalize(words, language) for words in (item.text, transcript, item.prompt_text))
    (edits, words), (char_edits, chars) = word_errors(text, heard), char_errors(text, heard)
    return Score(
        id=item.id,
        seen=item.seen,
        edits=edits,
        words=words,
        char_edits=char_edits,
        chars=chars,
        stutters=has_repetition(text, heard),
        leaks=has_prompt_leak(prompt, text, heard),
        similarity=judge_values[SIMILARITY],
        hypothesis=heard,
        heard=transcript,
        kind=item.kind,
        text=text,
        opinions={opinion_name(name): value for name, value in judge_values.items() if name != SIMILARITY},
        measures=dict(measures or {}),
    )


def reward_inputs(items: Sequence[EvalItem], clips: list[Tensor], reader: EvalAudio) -> list[RewardInput]:
    """Pair each clip with its text, the text's language, its speaker reference, and the recording of its text."""
    return [
        RewardInput(
            audio=clip,
            sample_rate=reader.sample_rate,
            text=item.text,
            language=item_language(item, reader.settings) or "auto",
            reference_audio=reader.prompt(item),
            reference_text=item.prompt_text,
            target_audio=reader.target(item),
        )
        for item, clip in zip(items, clips, strict=True)
    ]


def clips_error_rate(
    items: Sequence[EvalItem], clips: list[Tensor], synthesizer: EvalSynthesizer, judges: Judges, recognizer: str
) -> float:
    """Compute the error rate of clips by one recognizer: all word edits divided by all words."""
    transcripts = judges.transcribe(recognizer, reward_inputs(items, clips, synthesizer))
    counts = [
        word_errors(judges.normalize(item.text, language), judges.normalize(text, language))
        for item, text in zip(items, transcripts, strict=True)
        for language in [item_language(item, synthesizer.settings)]
    ]
    return sum(edits for edits, _ in counts) / sum(words for _, words in counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Measurements of one rank: of the items whose position in the list, divided by the ranks, leaves its number."""

    scores: dict[str, list[Score]]  # by recognizer
    seconds: float  # of computation, to synthesize the items
    speech_s: float  # length of their speech, s


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Evaluator with fixed items, noise and guidance, so that the results of several models are comparable."""

    items: Sequence[EvalItem]
    synthesizer: EvalSynthesizer
    judges: Judges
    cfg_strength: float

    def __call__(self, model: CFM) -> dict[str, float]:
        """Evaluate a model; return the metrics of docs/metrics.md. It uses no global random state."""
        return self.metrics([self.measure(model)])

    def measure(self, model: CFM, rank: int = 0, world_size: int = 1) -> Share:
        """Synthesize and score the share of one rank; the noise of an item does not depend on its rank."""
        synthesizer, places, started = self.synthesizer, range(rank, len(self.items), world_size), perf_counter()
        items = [self.items[place] for place in places]
        clips = synthesizer.synthesize(model, items, self.cfg_strength, places=places, quiet=True)
        return Share(
            seconds=perf_counter() - started,
            speech_s=sum(map(len, clips)) / synthesizer.sample_rate,
            scores=score_clips(items, clips, synthesizer, self.judges)
            if items
            else {name: [] for name in self.judges.recognizers},
        )

    def metrics(self, shares: Sequence[Share]) -> dict[str, float]:
        """Compute the metrics of all items from the shares of all ranks, in the order of the ranks."""
        scores = {name: in_order([share.scores[name] for share in shares]) for name in self.judges.recognizers}
        return named_metrics(scores, sum(share.seconds for share in shares) / sum(share.speech_s for share in shares))


def in_order(parts: Sequence[Sequence[Score]]) -> list[Score]:
    """Merge the scores of all ranks in the order of the list of items."""
    return [score for scores in zip_longest(*parts) for score in scores if score is not None]


def find_eval_vocabulary(cfg: TrainConfig, checkpoint: Checkpoint) -> Vocabulary:
    """Read the vocabulary of the run; where that is not there, as on another machine, that of the checkpoint."""
    if vocab_path(cfg).is_file():
        return build_vocabulary(cfg)
    try:
        return find_vocabulary("", checkpoint, cfg.model)
    except FileNotFoundError:
        return build_vocabulary(cfg)  # whose error names the key


def load_eval_model(cfg: TrainConfig, checkpoint: Checkpoint, vocabulary: Vocabulary) -> CFM:
    """Build the checkpoint's model, with a Gaussian head if the checkpoint has one, and load its weights.

    Sets model.output_dist of the config accordingly.
    """
    cfg.model.output_dist = "gaussian" if checkpoint.has_head else "deterministic"
    model = build_model(cfg.model, vocabulary).eval()
    load_weights(model, checkpoint)
    return model


def build_eval_synthesizer(cfg: TrainConfig, vocabulary: Vocabulary) -> EvalSynthesizer:
    """Build the synthesizer of an evaluation."""
    mel_spec = cfg.model.mel_spec
    return EvalSynthesizer(
        mel=LogMel(mel_spec), vocoder=build_vocoder(cfg.model), vocabulary=vocabulary, settings=cfg.eval
    )


def settings_of(
    cfg: TrainConfig, checkpoint: Checkpoint, vocabulary: Vocabulary, items: Sequence[EvalItem]
) -> dict[str, Any]:
    """Describe everything that determines the clips and their scores, by name: digests, and the keys of eval.

    The weights of a Gaussian head count only if the synthesis samples from it (model.sample_from_dist).
    """
    weights = sha256()
    for name, value in sorted(checkpoint.weights.items()):
        if cfg.model.sample_from_dist or not name.startswith(HEAD):
            weights.update(name.encode() + value.contiguous().numpy().tobytes())
    return {
        "the weights": weights.hexdigest(),
        "the model's settings": digest(asdict(cfg.model)),
        "the vocabulary": digest(vocabulary.symbols),
        **judging_settings(cfg.eval, items),
    }


def judging_settings(settings: EvalConfig, items: Sequence[EvalItem]) -> dict[str, Any]:
    """Describe the items and how they are spoken and judged, by name."""
    keys = {f"eval.{key}": value for key, value in asdict(settings).items() if key not in NO_MATTER}
    return {"the items": digest([asdict(item) for item in items]), **keys}


def digest(value: Any) -> str:
    """Compute a digest of a value that JSON can hold."""
    return sha256(json.dumps(value).encode()).hexdigest()
