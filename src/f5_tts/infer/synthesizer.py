"""Synthesis of texts of any length: chunking, batching, vocoding and joining."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from f5_tts.config.load import with_overrides
from f5_tts.config.schema import InferConfig, SynthesisConfig
from f5_tts.data.texts import coverage
from f5_tts.data.tokenizer import Vocabulary, is_valid_unicode
from f5_tts.infer.chunking import (
    chunk_size,
    cross_fade,
    fit_chunks,
    fixed_durations,
    gain,
    speech_frames,
    split_text,
    with_full_stop,
    with_trailing_space,
)
from f5_tts.infer.reference import Reference
from f5_tts.infer.sample import Request, sample_requests
from f5_tts.model.cfm import CFM
from f5_tts.model.flow import time_grid
from f5_tts.model.mel import LogMel, frames_in
from f5_tts.types import Vocoder

NUM_SEEDS = 2**31  # number of seeds that are drawn from
Progress = Callable[[Sequence[Any]], Iterable[Any]]  # a progress bar around batches or chunks, such as tqdm
MAX_PADDING_RATIO = 1.5  # padded frames of a batch per frame of its items
MIN_FRAMES = 2  # of a chunk; a single frame has no audio


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisInput:
    """Text to synthesize and its reference voice."""

    reference: Reference
    text: str | Sequence[str]  # of any length, or its chunks
    seed: int  # of its noise; the result does not depend on the other inputs
    speed: float  # relative to the reference: 2 is twice as fast


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedAudio:
    """Mel and waveform generated for a request."""

    mel: Float[Tensor, "n d"]  # log-mel
    wave: Float[Tensor, " nw"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisResult:
    """Synthesized audio of one input."""

    wave: Float[Tensor, " nw"]  # float32, about [-1, 1], on the CPU
    mel: Float[Tensor, "n d"]  # concatenated chunks, at the level of the model's output
    chunks: list[tuple[str, Float[Tensor, " _"]]]  # text of each chunk and its waveform before joining


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedInput:
    """Input split into chunks, with a request for each."""

    texts: list[str]  # of the chunks
    requests: list[Request]
    reference_gain: float  # gain that was applied to the reference


class Synthesizer:
    """Synthesizer: a model with its vocabulary, vocoder and settings (`infer` of the config)."""

    def __init__(self, model: CFM, vocabulary: Vocabulary, vocoder: Vocoder, cfg: SynthesisConfig) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.vocoder = vocoder
        self.cfg = cfg
        self.mel = LogMel(cfg.model.mel_spec)
        self.edge_frames = frames_in(
            0.0, cfg.model.mel_spec
        )  # frames of a prompt beyond its full hops, centered on its end

    @property
    def sample_rate(self) -> int:
        """Return the sample rate of the audio in Hz."""
        return self.cfg.model.mel_spec.target_sample_rate

    def with_overrides(self, overrides: list[str]) -> Synthesizer:
        """Return a synthesizer of the same model with other settings, e.g. `infer.nfe_step=16`."""
        return Synthesizer(self.model, self.vocabulary, self.vocoder, with_overrides(self.cfg, overrides))

    def synthesize(self, inputs: Sequence[SynthesisInput], progress: Progress | None = None) -> list[SynthesisResult]:
        """Synthesize each input, in order; the chunks of all inputs are batched by length.

        Symbols outside the vocabulary are printed and read as spaces. Raises ValueError for a text without a known
        symbol, and for a reference longer than `infer.fix_duration`.
        """
        prepared_inputs = [self.prepare(item) for item in inputs]
        requests = [request for prepared in prepared_inputs for request in prepared.requests]
        self.report_unknown(requests)
        generated = iter(
            generate_batched(
                requests,
                self.generate_mels,
                self.vocoder,
                batch_size=self.cfg.infer.batch_size,
                progress=progress or progress_bar("speaking"),
            )
        )
        return [self.assemble(prepared, [next(generated) for _ in prepared.requests]) for prepared in prepared_inputs]

    def stream(self, item: SynthesisInput, progress: Progress) -> Iterator[Float[Tensor, " nw"]]:
        """Synthesize an input chunk by chunk: yield the waveform of each, before joining, as soon as it is done."""
        prepared = self.prepare(item)
        self.report_unknown(prepared.requests)
        for request in progress(prepared.requests):
            (audio,) = generate_batched(
                [request], self.generate_mels, self.vocoder, batch_size=1, progress=progress_bar(None)
            )
            yield audio.wave / prepared.reference_gain

    def report_unknown(self, requests: Sequence[Request]) -> None:
        """Print the symbols of the texts that are not in the vocabulary."""
        found = coverage([request.text for request in requests], self.vocabulary)
        if found.counts:
            print("\n".join(found.lines("texts")))

    def prepare(self, item: SynthesisInput) -> PreparedInput:
        """Split an input into chunks and build their requests; chunk i uses the input's seed + i."""
        given = [self.vocabulary.compose(part) for part in ([item.text] if isinstance(item.text, str) else item.text)]
        text = " ".join(" ".join(given).split())
        self.check_text(text, "gen_text")
        self.check_text(item.reference.text, "ref_text")
        reference, reference_gain = item.reference, gain(item.reference.rms, self.cfg.infer.target_rms)
        prompt = self.vocabulary.compose(self.prompt_text(reference))
        size = chunk_size(prompt, reference.seconds, item.speed)
        texts = fit_chunks(split_text(text, size), size) if isinstance(item.text, str) else given
        mel = self.mel(reference_gain * reference.wave[None])[0]
        hops = len(mel) - self.edge_frames
        seconds = self.fixed_seconds(hops, texts)
        requests = [
            Request(
                prompt_mel=mel,
                text=with_trailing_space(prompt) + chunk,
                frames=self.frames(hops, with_trailing_space(prompt), chunk, item.speed, seconds[i]) - self.edge_frames,
                seed=item.seed + i,
            )
            for i, chunk in enumerate(texts)
        ]
        return PreparedInput(texts=texts, requests=requests, reference_gain=reference_gain)

    def check_text(self, text: str, key: str) -> None:
        """Raise ValueError for a text without a known symbol, or with invalid Unicode."""
        if not is_valid_unicode(text):
            raise ValueError(f"{key} is not valid Unicode: it contains a lone surrogate, {text[:40]!r}")
        if not text.strip():
            raise ValueError(f"{key} is empty")
        if not self.vocabulary.knows(text):
            raise ValueError(f"the model's vocabulary holds none of the symbols of {key} {text[:40]!r}")

    def prompt_text(self, reference: Reference) -> str:
        """Return the reference text, with a full stop at its end if the vocabulary has one, else without."""
        if "." not in self.vocabulary.ids:
            return reference.text.rstrip(". ")
        return reference.text if reference.is_complete else with_full_stop(reference.text)

    def fixed_seconds(self, prompt_frames: int, chunks: Sequence[str]) -> Sequence[float | None]:
        """Return for each chunk the seconds of the reference and its own by infer.fix_duration; None without it.

        Raises ValueError if the reference fills infer.fix_duration.
        """
        infer, rate = self.cfg.infer, self.cfg.model.mel_spec.frames_per_second
        if infer.fix_duration is None:
            return [None] * len(chunks)
        if int(infer.fix_duration * rate) <= prompt_frames:
            raise ValueError(
                f"infer.fix_duration={infer.fix_duration:g} s leaves no time for the text: the reference takes "
                f"{prompt_frames / rate:.1f} s of it"
            )
        return fixed_durations(infer.fix_duration, prompt_frames / rate, chunks, infer.cross_fade_duration)

    def frames(self, prompt_frames: int, prompt: str, text: str, speed: float, fixed_s: float | None) -> int:
        """Compute the frames of a chunk from its length, or from the seconds of the reference and its own.

        The result has at least one frame per symbol.
        """
        if fixed_s is None:
            num_frames = speech_frames(prompt_frames, prompt, text, speed)
        else:
            num_frames = int(fixed_s * self.cfg.model.mel_spec.frames_per_second) - prompt_frames
        return max(num_frames, len(self.vocabulary.split(prompt + text)) + 1 - prompt_frames, MIN_FRAMES)

    def generate_mels(self, requests: Sequence[Request]) -> list[Float[Tensor, "n d"]]:
        """Sample the mel of each request; as in F5-TTS, the frame at the end of the prompt is its first frame."""
        infer = self.cfg.infer
        times = time_grid(infer.nfe_step, infer.sway_sampling_coef, epss=infer.epss)
        generated = sample_requests(self.model, requests, self.vocabulary, times, infer.cfg_strength, infer.ode_method)
        ends = [request.prompt_mel[len(request.prompt_mel) - self.edge_frames :] for request in requests]
        return [torch.cat([end.to(mel.device), mel]) for end, mel in zip(ends, generated, strict=True)]

    def assemble(self, prepared: PreparedInput, generated: Sequence[GeneratedAudio]) -> SynthesisResult:
        """Join the chunks with cross-fades, at the loudness of the reference."""
        waves = [audio.wave / prepared.reference_gain for audio in generated]
        return SynthesisResult(
            wave=cross_fade(waves, int(self.cfg.infer.cross_fade_duration * self.sample_rate)),
            mel=torch.cat([audio.mel for audio in generated]),
            chunks=list(zip(prepared.texts, waves, strict=True)),
        )


def resolve_seed(infer: InferConfig) -> int:
    """Return the configured seed, or draw one where it is null or negative."""
    return random.randrange(NUM_SEEDS) if infer.seed is None or infer.seed < 0 else infer.seed


def progress_bar(title: str | None) -> Progress:
    """Return a progress bar over batches with this title, or none without a title."""
    return partial(tqdm, desc=title, unit="batch", disable=title is None)


def as_progress(bar: Any) -> Progress:
    """Return the function of a progress bar: the bar itself, its method tqdm (as gradio's Progress has), or no bar."""
    return progress_bar(None) if bar is None else getattr(bar, "tqdm", bar)


def generate_batched(
    requests: Sequence[Request],
    mels: Callable[[list[Request]], list[Tensor]],
    vocoder: Vocoder,
    *,
    batch_size: int,
    progress: Progress,
) -> list[GeneratedAudio]:
    """Generate mel and waveform of each request, in order, on the CPU; batched by length."""
    generated: dict[int, GeneratedAudio] = {}
    batches = batches_by_length([request.total for request in requests], batch_size)
    for batch in progress(batches):
        batch_mels = mels([requests[i] for i in batch])
        lens = torch.tensor([len(mel) for mel in batch_mels], device=batch_mels[0].device)
        waves = vocoder(pad_sequence(batch_mels, batch_first=True), lens)
        for i, mel, wave in zip(batch, batch_mels, waves, strict=True):
            generated[i] = GeneratedAudio(mel=mel.cpu(), wave=wave.cpu())
    return [generated[i] for i in range(len(requests))]


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Group indices into batches of similar length, shortest first.

    A batch has at most `batch_size` items, fewer where more than a third of its frames would be padding.
    """
    batches: list[list[int]] = []
    total = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        padded_frames = lengths[i] * (len(batches[-1]) + 1) if batches else 0
        if not batches or len(batches[-1]) == batch_size or padded_frames > MAX_PADDING_RATIO * (total + lengths[i]):
            batches.append([])
            total = 0
        batches[-1].append(i)
        total += lengths[i]
    return batches
