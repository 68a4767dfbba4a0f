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

from f5_tts.config.load import changed
from f5_tts.config.schema import InferConfig, SpeechConfig
from f5_tts.data.tokenizer import Vocabulary, is_writable
from f5_tts.infer.chunking import chunk_size, cross_fade, finished, gain, spaced, speech_frames, split_text
from f5_tts.infer.reference import Reference
from f5_tts.infer.sample import Request, speak
from f5_tts.model.cfm import CFM
from f5_tts.model.flow import time_grid
from f5_tts.model.mel import LogMel, frames_in
from f5_tts.types import Vocoder

SEEDS = 2**31  # as many are drawn from
MOST_PADDED = 1.5  # frames in a batch, for each one that is spoken
LEAST_FRAMES = 2  # of speech; one frame is no sound yet


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Something to say, and in whose voice."""

    reference: Reference
    text: str
    seed: int  # of its noise: the same seed gives the same speech, whatever else is said beside it
    speed: float  # 2 speaks twice as fast as the reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Sound:
    """What was made of a request."""

    mel: Float[Tensor, "n d"]  # log-mel
    wave: Float[Tensor, " nw"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Speech:
    """A line as it was spoken."""

    wave: Float[Tensor, " nw"]  # float32, about [-1, 1], on the CPU
    mel: Float[Tensor, "n d"]  # of the chunks, one after the other; as loud as the model spoke
    chunks: list[tuple[str, Float[Tensor, " _"]]]  # what was said at once, and its part of `wave` before joining


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """A line ready to be spoken."""

    texts: list[str]  # of its chunks
    requests: list[Request]
    boost: float  # by which the reference was made louder


class Speaker:
    """A model with all that it needs to speak; `run.infer` says how."""

    def __init__(self, model: CFM, vocabulary: Vocabulary, vocoder: Vocoder, run: SpeechConfig) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.vocoder = vocoder
        self.run = run
        self.mel = LogMel(run.model.mel_spec)
        self.overhang = frames_in(
            0.0, run.model.mel_spec
        )  # frames of a prompt beyond its whole hops, centred on its end

    @property
    def sample_rate(self) -> int:
        return self.run.model.mel_spec.target_sample_rate

    def changed(self, overrides: list[str]) -> Speaker:
        """The same model with other settings, e.g. `infer.nfe_step=16`."""
        return Speaker(self.model, self.vocabulary, self.vocoder, changed(self.run, overrides))

    def speak(self, lines: Sequence[Line]) -> list[Speech]:
        """Each line as speech, in order; the chunks of all lines are batched by length.

        Symbols that the model does not know are printed once and read as spaces. Raises ValueError for a line without a
        known symbol, and for a reference longer than `infer.fix_duration`.
        """
        scripts = [self.script(line) for line in lines]
        requests = [request for script in scripts for request in script.requests]
        unknown = self.vocabulary.unknown([request.text for request in requests])
        if unknown:
            print(f"not in the model's vocabulary, so read as spaces: {', '.join(map(repr, unknown))}")
        sounds = iter(render(requests, self.mels, self.vocoder, batch_size=self.run.infer.batch_size, title="speaking"))
        return [self.speech(script, [next(sounds) for _ in script.requests]) for script in scripts]

    def script(self, line: Line) -> Script:
        """Chunks and their requests; chunk i draws its noise from the line's seed + i."""
        text = " ".join(line.text.split())
        self.check_text(text, "gen_text")
        self.check_text(line.reference.text, "ref_text")
        reference, boost = line.reference, gain(line.reference.rms, self.run.infer.target_rms)
        prompt = self.prompt_text(reference.text)
        texts = split_text(text, chunk_size(prompt, reference.seconds, line.speed))
        mel = self.mel(boost * reference.wave[None])[0]
        hops = len(mel) - self.overhang
        requests = [
            Request(
                prompt_mel=mel,
                text=spaced(prompt) + chunk,
                frames=self.frames(hops, spaced(prompt), chunk, line.speed) - self.overhang,
                seed=line.seed + i,
            )
            for i, chunk in enumerate(texts)
        ]
        return Script(texts=texts, requests=requests, boost=boost)

    def check_text(self, text: str, key: str) -> None:
        """ValueError for a text that would be nothing but spaces to the model."""
        if not is_writable(text):
            raise ValueError(f"{key} is no Unicode: it has half a surrogate in it, {text[:40]!r}")
        symbols = {symbol for symbol in self.vocabulary.split(text) if symbol.strip()}
        if not symbols:
            raise ValueError(f"{key} is empty")
        if not symbols & self.vocabulary.ids.keys():
            raise ValueError(f"the model's vocabulary holds none of the symbols of {key} {text[:40]!r}")

    def prompt_text(self, text: str) -> str:
        """The reference's text with its full stop, which only a model that learnt full stops is shown."""
        return finished(text) if "." in self.vocabulary.ids else text

    def frames(self, prompt_frames: int, prompt: str, text: str, speed: float) -> int:
        """Frames of a chunk's speech: by its length, or what infer.fix_duration leaves; with room for every symbol."""
        fixed = self.run.infer.fix_duration
        if fixed is None:
            wanted = speech_frames(prompt_frames, prompt, text, speed)
        else:
            wanted = int(fixed * self.run.model.mel_spec.frames_per_second) - prompt_frames
            if wanted < 1:
                seconds = prompt_frames / self.run.model.mel_spec.frames_per_second
                raise ValueError(
                    f"infer.fix_duration={fixed:g} s leaves no time to speak: the reference takes {seconds:.1f} s of it"
                )
        return max(wanted, len(self.vocabulary.split(prompt + text)) + 1 - prompt_frames, LEAST_FRAMES)

    def mels(self, requests: Sequence[Request]) -> list[Float[Tensor, "n d"]]:
        """What the model speaks; the frame on the prompt's end opens it, as in F5-TTS."""
        infer = self.run.infer
        times = time_grid(infer.nfe_step, infer.sway_sampling_coef, epss=infer.epss)
        made = speak(self.model, requests, self.vocabulary, times, infer.cfg_strength, infer.ode_method)
        ends = [request.prompt_mel[len(request.prompt_mel) - self.overhang :] for request in requests]
        return [torch.cat([end.to(mel.device), mel]) for end, mel in zip(ends, made, strict=True)]

    def speech(self, script: Script, sounds: Sequence[Sound]) -> Speech:
        """The chunks as loud as the reference, faded into each other."""
        waves = [sound.wave / script.boost for sound in sounds]
        return Speech(
            wave=cross_fade(waves, int(self.run.infer.cross_fade_duration * self.sample_rate)),
            mel=torch.cat([sound.mel for sound in sounds]),
            chunks=list(zip(script.texts, waves, strict=True)),
        )


def chosen_seed(infer: InferConfig) -> int:
    """The seed that is asked for, else a new one."""
    return random.randrange(SEEDS) if infer.seed is None else infer.seed


def render(
    requests: Sequence[Request],
    mels: Callable[[list[Request]], list[Tensor]],
    vocoder: Vocoder,
    *,
    batch_size: int,
    title: str | None,  # of the progress bar; None: without one
) -> list[Sound]:
    """What `mels` makes of each request and how that sounds, in order, on the CPU; batched by length."""
    sounds: dict[int, Sound] = {}
    batches = batches_by_length([request.total for request in requests], batch_size)
    for chosen in tqdm(batches, desc=title, unit="batch", disable=title is None):
        made = mels([requests[i] for i in chosen])
        lens = torch.tensor([len(mel) for mel in made], device=made[0].device)
        waves = vocoder(pad_sequence(made, batch_first=True), lens)
        for i, mel, wave in zip(chosen, made, waves, strict=True):
            sounds[i] = Sound(mel=mel.cpu(), wave=wave.cpu())
    return [sounds[i] for i in range(len(requests))]


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Places in the list, shortest first, `batch_size` a batch; fewer where more than a third would be padding."""
    batches: list[list[int]] = []
    total = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        padded = lengths[i] * (len(batches[-1]) + 1) if batches else 0
        if not batches or len(batches[-1]) == batch_size or padded > MOST_PADDED * (total + lengths[i]):
            batches.append([])
            total = 0
        batches[-1].append(i)
        total += lengths[i]
    return batches
