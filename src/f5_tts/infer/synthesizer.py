"""Voices and texts -> speech: cut into chunks, spoken in batches, joined again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from f5_tts.config.load import with_overrides
from f5_tts.config.schema import InferConfig, SynthesisConfig
from f5_tts.data.tokenizer import Vocabulary, is_valid_unicode
from f5_tts.infer.chunking import (
    chunk_size,
    cross_fade,
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

NUM_SEEDS = 2**31  # as many are drawn from
MAX_PADDING_RATIO = 1.5  # frames in a batch, for each one that is spoken
MIN_FRAMES = 2  # of speech; one frame is no sound yet


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisInput:
    """Something to say, and in whose voice."""

    reference: Reference
    text: str
    seed: int  # of its noise: the same seed gives the same speech, whatever else is said beside it
    speed: float  # 2 speaks twice as fast as the reference


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedAudio:
    """What was made of a request."""

    mel: Float[Tensor, "n d"]  # log-mel
    wave: Float[Tensor, " nw"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisResult:
    """A line as it was spoken."""

    wave: Float[Tensor, " nw"]  # float32, about [-1, 1], on the CPU
    mel: Float[Tensor, "n d"]  # of the chunks, one after the other; as loud as the model spoke
    chunks: list[tuple[str, Float[Tensor, " _"]]]  # what was said at once, and its part of `wave` before joining


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedInput:
    """A line ready to be spoken."""

    texts: list[str]  # of its chunks
    requests: list[Request]
    reference_gain: float  # by which the reference was made louder


class Synthesizer:
    """A model with all that it needs to speak; `run.infer` says how."""

    def __init__(self, model: CFM, vocabulary: Vocabulary, vocoder: Vocoder, cfg: SynthesisConfig) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.vocoder = vocoder
        self.cfg = cfg
        self.mel = LogMel(cfg.model.mel_spec)
        self.edge_frames = frames_in(
            0.0, cfg.model.mel_spec
        )  # frames of a prompt beyond its whole hops, centred on its end

    @property
    def sample_rate(self) -> int:
        return self.cfg.model.mel_spec.target_sample_rate

    def with_overrides(self, overrides: list[str]) -> Synthesizer:
        """The same model with other settings, e.g. `infer.nfe_step=16`."""
        return Synthesizer(self.model, self.vocabulary, self.vocoder, with_overrides(self.cfg, overrides))

    def synthesize(self, inputs: Sequence[SynthesisInput]) -> list[SynthesisResult]:
        """Each line as speech, in order; the chunks of all lines are batched by length.

        Symbols that the model does not know are printed once and read as spaces. Raises ValueError for a line without a
        known symbol, and for a reference longer than `infer.fix_duration`.
        """
        prepared_inputs = [self.prepare(item) for item in inputs]
        requests = [request for prepared in prepared_inputs for request in prepared.requests]
        unknown = self.vocabulary.unknown([request.text for request in requests])
        if unknown:
            print(f"not in the model's vocabulary, so read as spaces: {', '.join(map(repr, unknown))}")
        generated = iter(
            generate_batched(
                requests, self.generate_mels, self.vocoder, batch_size=self.cfg.infer.batch_size, title="speaking"
            )
        )
        return [self.assemble(prepared, [next(generated) for _ in prepared.requests]) for prepared in prepared_inputs]

    def prepare(self, item: SynthesisInput) -> PreparedInput:
        """Chunks and their requests; chunk i draws its noise from the line's seed + i."""
        text = " ".join(item.text.split())
        self.check_text(text, "gen_text")
        self.check_text(item.reference.text, "ref_text")
        reference, reference_gain = item.reference, gain(item.reference.rms, self.cfg.infer.target_rms)
        prompt = self.prompt_text(reference.text)
        texts = split_text(text, chunk_size(prompt, reference.seconds, item.speed))
        mel = self.mel(reference_gain * reference.wave[None])[0]
        hops = len(mel) - self.edge_frames
        requests = [
            Request(
                prompt_mel=mel,
                text=with_trailing_space(prompt) + chunk,
                frames=self.frames(hops, with_trailing_space(prompt), chunk, item.speed) - self.edge_frames,
                seed=item.seed + i,
            )
            for i, chunk in enumerate(texts)
        ]
        return PreparedInput(texts=texts, requests=requests, reference_gain=reference_gain)

    def check_text(self, text: str, key: str) -> None:
        """ValueError for a text that would be nothing but spaces to the model."""
        if not is_valid_unicode(text):
            raise ValueError(f"{key} is no Unicode: it has half a surrogate in it, {text[:40]!r}")
        symbols = {symbol for symbol in self.vocabulary.split(text) if symbol.strip()}
        if not symbols:
            raise ValueError(f"{key} is empty")
        if not symbols & self.vocabulary.ids.keys():
            raise ValueError(f"the model's vocabulary holds none of the symbols of {key} {text[:40]!r}")

    def prompt_text(self, text: str) -> str:
        """The reference's text with its full stop, which only a model that learnt full stops is shown."""
        return with_full_stop(text) if "." in self.vocabulary.ids else text

    def frames(self, prompt_frames: int, prompt: str, text: str, speed: float) -> int:
        """Frames of a chunk's speech: by its length, or what infer.fix_duration leaves; with room for every symbol."""
        fixed_seconds = self.cfg.infer.fix_duration
        if fixed_seconds is None:
            num_frames = speech_frames(prompt_frames, prompt, text, speed)
        else:
            num_frames = int(fixed_seconds * self.cfg.model.mel_spec.frames_per_second) - prompt_frames
            if num_frames < 1:
                seconds = prompt_frames / self.cfg.model.mel_spec.frames_per_second
                raise ValueError(
                    f"infer.fix_duration={fixed_seconds:g} s leaves no time to speak: the reference takes "
                    f"{seconds:.1f} s of it"
                )
        return max(num_frames, len(self.vocabulary.split(prompt + text)) + 1 - prompt_frames, MIN_FRAMES)

    def generate_mels(self, requests: Sequence[Request]) -> list[Float[Tensor, "n d"]]:
        """What the model speaks; the frame on the prompt's end opens it, as in F5-TTS."""
        infer = self.cfg.infer
        times = time_grid(infer.nfe_step, infer.sway_sampling_coef, epss=infer.epss)
        generated = sample_requests(self.model, requests, self.vocabulary, times, infer.cfg_strength, infer.ode_method)
        ends = [request.prompt_mel[len(request.prompt_mel) - self.edge_frames :] for request in requests]
        return [torch.cat([end.to(mel.device), mel]) for end, mel in zip(ends, generated, strict=True)]

    def assemble(self, prepared: PreparedInput, generated: Sequence[GeneratedAudio]) -> SynthesisResult:
        """The chunks as loud as the reference, faded into each other."""
        waves = [audio.wave / prepared.reference_gain for audio in generated]
        return SynthesisResult(
            wave=cross_fade(waves, int(self.cfg.infer.cross_fade_duration * self.sample_rate)),
            mel=torch.cat([audio.mel for audio in generated]),
            chunks=list(zip(prepared.texts, waves, strict=True)),
        )


def resolve_seed(infer: InferConfig) -> int:
    """The seed that is asked for, else a new one."""
    return random.randrange(NUM_SEEDS) if infer.seed is None else infer.seed


def generate_batched(
    requests: Sequence[Request],
    mels: Callable[[list[Request]], list[Tensor]],
    vocoder: Vocoder,
    *,
    batch_size: int,
    title: str | None,  # of the progress bar; None: without one
) -> list[GeneratedAudio]:
    """What `mels` makes of each request and how that sounds, in order, on the CPU; batched by length."""
    generated: dict[int, GeneratedAudio] = {}
    batches = batches_by_length([request.total for request in requests], batch_size)
    for batch in tqdm(batches, desc=title, unit="batch", disable=title is None):
        batch_mels = mels([requests[i] for i in batch])
        lens = torch.tensor([len(mel) for mel in batch_mels], device=batch_mels[0].device)
        waves = vocoder(pad_sequence(batch_mels, batch_first=True), lens)
        for i, mel, wave in zip(batch, batch_mels, waves, strict=True):
            generated[i] = GeneratedAudio(mel=mel.cpu(), wave=wave.cpu())
    return [generated[i] for i in range(len(requests))]


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Places in the list, shortest first, `batch_size` a batch; fewer where more than a third would be padding."""
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
