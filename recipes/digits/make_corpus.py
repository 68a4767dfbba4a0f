"""Make the spoken-digit corpora: `data/mini_custom` (shipped) and `data/mini_base_custom` (made on demand).

The speech is synthetic. The text-to-speech system hibari-tts has one voice; changes of its pitch, vocal-tract length,
spectral tilt, breathiness and speed make twenty-two voices. A clip depends on its voice and text alone, so the same
clip is equal in both corpora.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr
from jaxtyping import Float
from tqdm import tqdm

from f5_tts.entrypoint import run_command
from f5_tts.files import user_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SEED = 20260
SAMPLE_RATE = 16000  # Hz, of all files written
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LENGTHS = (2, 3, 4, 5)  # words per utterance
PROMPT_LENGTHS = (2, 3)
SHARES = {"train": 0.60, "dev": 0.15, "test": 0.25}  # of the digit strings of each length
SYMBOLS = " abcdefghijklmnopqrstuvwxyz"
LOUDNESS = 0.06  # RMS of the speech; full scale is 1
PEAK = 0.95
MARGIN_S = 0.04  # silence kept before and after the speech
QUIET_DB = -40.0  # relative to the loudest frame; quieter frames are not speech


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """Differences of a voice from the synthesizer's own voice."""

    name: str
    pitch: float  # factor on the fundamental frequency
    intonation: float  # factor on the deviations of its logarithm from the mean; 0 is a monotone
    warp: float  # factor on the frequencies of the spectral envelope; above 1 for a short vocal tract
    tilt_db: float  # dB per octave about 1 kHz
    breath_db: float  # noise relative to the harmonics' envelope in dB; -60 is none
    speed: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One utterance to synthesize."""

    voice: Voice
    text: str
    name: str  # file name without folder and suffix


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalItem:
    """One item of an evaluation list: `text`, to be synthesized in the voice of the prompt."""

    id: str
    prompt: Clip
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSetSize:
    """Number of prompts and items per voice in an evaluation list."""

    prompts: int
    items: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Size and content of a corpus."""

    out: Path
    per_voice: int  # training utterances per voice
    eval_splits: tuple[str, ...]  # splits for which an evaluation list is written


RECIPES = {
    "mini": Recipe(out=Path("data/mini_custom"), per_voice=15, eval_splits=("dev", "test")),
    "base": Recipe(out=Path("data/mini_base_custom"), per_voice=220, eval_splits=()),
}
UNSEEN_SIZES = {"dev": EvalSetSize(prompts=5, items=24), "test": EvalSetSize(prompts=5, items=40)}
SEEN_SIZES = {"dev": EvalSetSize(prompts=1, items=1), "test": EvalSetSize(prompts=2, items=4)}

# Selected among random candidates: pocketsphinx still recognizes the digits, and the speaker embeddings are far apart.
# The parameters of the dev and test voices lie inside the range of the training voices.
TRAIN_VOICES = (
    Voice(name="train_00", pitch=1.36, intonation=1.08, warp=0.86, tilt_db=5.78, breath_db=-60.0, speed=1.11),
    Voice(name="train_01", pitch=1.15, intonation=1.29, warp=1.05, tilt_db=0.27, breath_db=-60.0, speed=0.98),
    Voice(name="train_02", pitch=1.15, intonation=0.98, warp=0.8, tilt_db=-4.95, breath_db=-60.0, speed=1.16),
    Voice(name="train_03", pitch=0.77, intonation=0.92, warp=0.83, tilt_db=-0.1, breath_db=-60.0, speed=0.97),
    Voice(name="train_04", pitch=0.56, intonation=1.06, warp=0.97, tilt_db=5.88, breath_db=-11.85, speed=1.06),
    Voice(name="train_05", pitch=1.43, intonation=1.15, warp=0.92, tilt_db=-0.36, breath_db=-4.67, speed=1.13),
    Voice(name="train_06", pitch=1.33, intonation=0.93, warp=0.81, tilt_db=3.21, breath_db=-4.98, speed=1.05),
    Voice(name="train_07", pitch=0.97, intonation=0.67, warp=1.04, tilt_db=-4.64, breath_db=-60.0, speed=1.12),
    Voice(name="train_08", pitch=1.38, intonation=1.28, warp=0.95, tilt_db=1.12, breath_db=-60.0, speed=1.16),
    Voice(name="train_09", pitch=0.68, intonation=0.82, warp=0.82, tilt_db=-5.99, breath_db=-60.0, speed=1.02),
    Voice(name="train_10", pitch=0.98, intonation=1.03, warp=1.02, tilt_db=4.88, breath_db=-60.0, speed=1.05),
    Voice(name="train_11", pitch=0.77, intonation=0.81, warp=1.04, tilt_db=3.49, breath_db=-15.97, speed=1.07),
    Voice(name="train_12", pitch=0.55, intonation=1.19, warp=1.03, tilt_db=-4.94, breath_db=-60.0, speed=1.01),
    Voice(name="train_13", pitch=1.5, intonation=1.05, warp=0.95, tilt_db=-2.53, breath_db=-60.0, speed=1.18),
    Voice(name="train_14", pitch=0.88, intonation=1.07, warp=0.91, tilt_db=4.78, breath_db=-16.74, speed=1.09),
    Voice(name="train_15", pitch=0.64, intonation=0.81, warp=0.93, tilt_db=2.48, breath_db=-13.93, speed=1.12),
)
DEV_VOICES = (
    Voice(name="dev_00", pitch=0.78, intonation=0.97, warp=0.88, tilt_db=-3.61, breath_db=-8.44, speed=1.07),
    Voice(name="dev_01", pitch=0.84, intonation=0.87, warp=0.9, tilt_db=-1.14, breath_db=-60.0, speed=1.03),
)
TEST_VOICES = (
    Voice(name="test_00", pitch=0.96, intonation=0.94, warp=0.96, tilt_db=2.21, breath_db=-60.0, speed=1.14),
    Voice(name="test_01", pitch=1.23, intonation=0.95, warp=0.85, tilt_db=1.67, breath_db=-60.0, speed=1.12),
    Voice(name="test_02", pitch=0.75, intonation=1.04, warp=1.01, tilt_db=-0.96, breath_db=-60.0, speed=1.06),
    Voice(name="test_03", pitch=1.12, intonation=0.94, warp=0.86, tilt_db=-2.3, breath_db=-60.0, speed=1.07),
)


# Voices


def bend_pitch(f0: Float[np.ndarray, " n"], voice: Voice, unvoiced_hz: float = 40.0) -> Float[np.ndarray, " n"]:
    """Change the fundamental frequency (Hz) as the voice asks; unvoiced frames, below `unvoiced_hz`, stay."""
    voiced = f0 > unvoiced_hz
    if not voiced.any():
        return f0
    center = np.log(f0[voiced]).mean()
    bent = f0.copy()
    bent[voiced] = voice.pitch * np.exp(center + voice.intonation * (np.log(f0[voiced]) - center))
    return np.maximum(bent, np.where(voiced, 1.2 * unvoiced_hz, 0.0)).astype(np.float32)


def warp_frequency(spectrum: Float[np.ndarray, "k n"], warp: float) -> Float[np.ndarray, "k n"]:
    """Move the content at frequency f to `warp` times f; the top bin fills what is missing above."""
    source = np.minimum(np.arange(len(spectrum)) / warp, len(spectrum) - 1)
    low = source.astype(int)
    high = np.minimum(low + 1, len(spectrum) - 1)
    fraction = (source - low)[:, None].astype(np.float32)
    return (1 - fraction) * spectrum[low] + fraction * spectrum[high]


def warp_phase(phase: Float[np.ndarray, "k n"], warp: float, turn: float) -> Float[np.ndarray, "k n"]:
    """Move the phases with their bins; adjacent bins keep their difference of `turn` radians per frame."""
    bins = np.arange(len(phase))
    source = np.minimum(np.round(bins / warp).astype(int), len(phase) - 1)
    drift = (turn * (bins - source))[:, None] * np.arange(phase.shape[1])
    return (phase[source] + drift).astype(np.float32)


def tilt_curve(num_bins: int, nyquist: float, db_per_octave: float) -> Float[np.ndarray, " k"]:
    """Compute the natural-log gain of each bin for a slope in dB per octave: 0 at 1 kHz, constant below 100 Hz."""
    hertz = np.maximum(np.linspace(0, nyquist, num_bins), 100.0)
    return (db_per_octave * np.log2(hertz / 1000.0) * np.log(10) / 20).astype(np.float32)


class DigitSynthesizer:
    """Synthesizer of a text in any of the voices: modified spectra of hibari-tts, through its own vocoder."""

    def __init__(self) -> None:
        try:
            import hibari
        except ImportError as error:
            raise ImportError('the corpus is synthesized with hibari-tts: pip install -e ".[mini]"') from error
        self.engine = hibari.Hibari()
        self.dsp = hibari.tts.dsp

    def __call__(self, voice: Voice, text: str) -> Float[np.ndarray, " nw"]:
        """Synthesize the trimmed, leveled clip at SAMPLE_RATE; the same voice and text give the same bytes."""
        rng = np.random.default_rng([SEED, *f"{voice.name} {text}".encode()])
        wave = self.dsp.synth(*self.spectra(voice, text), rng=rng)
        return level(trim(soxr.resample(wave, self.engine.sample_rate, SAMPLE_RATE)))

    def spectra(self, voice: Voice, text: str) -> tuple[np.ndarray, ...]:
        """Compute the log spectra (harmonics, dispersion, noise, rest), the phases and the pitch of this voice."""
        ids = self.engine.ids(" ".join(self.engine.phonemize(text)))
        feed = {"ids": np.asarray([ids], np.int64), "speed": np.asarray([voice.speed], np.float32)}
        harmonics, dispersion, noise, rest, phase, f0 = (
            np.asarray(part)[0] for part in self.engine.sess.run(None, feed)
        )
        tilt = tilt_curve(len(rest), self.dsp.SR / 2, voice.tilt_db)[:, None]
        harmonics, noise, rest = (warp_frequency(part, voice.warp) + tilt for part in (harmonics, noise, rest))
        noise = np.logaddexp(noise, harmonics + voice.breath_db * np.log(10) / 20).astype(np.float32)
        turn = 2 * np.pi * self.dsp.HOP / self.dsp.N_FFT
        phase = warp_phase(phase, voice.warp, turn)
        return harmonics, warp_frequency(dispersion, voice.warp), noise, rest, phase, bend_pitch(f0, voice)


# Audio


def speech_frames(wave: Float[np.ndarray, " nw"], frame: int = SAMPLE_RATE // 100) -> tuple[np.ndarray, np.ndarray]:
    """Compute the power of each 10 ms frame, and whether the frame is speech."""
    power = np.square(wave[: len(wave) // frame * frame].reshape(-1, frame), dtype=np.float64).mean(axis=1)
    return power, power > power.max() * 10 ** (QUIET_DB / 10)


def trim(wave: Float[np.ndarray, " nw"]) -> Float[np.ndarray, " nt"]:
    """Cut the wave to the speech with MARGIN_S seconds on both sides."""
    active = np.flatnonzero(speech_frames(wave)[1])
    margin, frame = round(MARGIN_S * SAMPLE_RATE), SAMPLE_RATE // 100
    return wave[max(0, active[0] * frame - margin) : (active[-1] + 1) * frame + margin]


def level(wave: Float[np.ndarray, " nw"]) -> Float[np.ndarray, " nw"]:
    """Scale the wave so that its speech has an RMS of LOUDNESS, or less where its peak would exceed PEAK."""
    power, active = speech_frames(wave)
    gain = min(LOUDNESS / np.sqrt(power[active].mean()), PEAK / np.abs(wave).max())
    return (wave * gain).astype(np.float32)


# Texts


@cache
def text_lists(seed: int) -> dict[str, dict[int, list[str]]]:
    """Divide all digit strings of each length among the three splits at random: {split: {length: texts}}."""
    lists: dict[str, dict[int, list[str]]] = {split: {} for split in SHARES}
    for length in LENGTHS:
        strings = [" ".join(words) for words in itertools.product(WORDS, repeat=length)]
        order = np.random.default_rng([seed, length]).permutation(len(strings))
        ends = np.round(np.cumsum(list(SHARES.values())) * len(strings)).astype(int)
        for split, indices in zip(SHARES, np.split(order, ends[:-1]), strict=True):
            lists[split][length] = [strings[index] for index in indices]
    return lists


def draw_texts(lists: dict[int, list[str]], lengths: Sequence[int], count: int, rng: np.random.Generator) -> list[str]:
    """Draw `count` different texts, of each length in turn."""
    remaining = {length: iter(rng.permutation(len(lists[length])).tolist()) for length in lengths}
    return [lists[length][next(remaining[length])] for length in itertools.islice(itertools.cycle(lengths), count)]


def train_clips(per_voice: int) -> list[Clip]:
    """List the training utterances: each training voice with texts of the train split, lengths in equal parts."""
    lists, rng = text_lists(SEED)["train"], np.random.default_rng([SEED, per_voice])
    return [
        Clip(voice=voice, text=text, name=f"{voice.name}_{index:04d}")
        for voice in TRAIN_VOICES
        for index, text in enumerate(draw_texts(lists, LENGTHS, per_voice, rng))
    ]


def eval_items(split: str) -> list[EvalItem]:
    """List the evaluation items of a split: the prompts of each voice in turn, each with a different text."""
    unseen = DEV_VOICES if split == "dev" else TEST_VOICES
    return [
        item
        for voices, size in ((unseen, UNSEEN_SIZES[split]), (TRAIN_VOICES, SEEN_SIZES[split]))
        for index, voice in enumerate(voices)
        for item in voice_items(split, voice, index, size)
    ]


def voice_items(split: str, voice: Voice, index: int, size: EvalSetSize) -> list[EvalItem]:
    """List one voice's items; their first length depends on the voice, so that few items cover all lengths."""
    lists, rng = text_lists(SEED)[split], np.random.default_rng([SEED, *f"{split} {voice.name}".encode()])
    prompts = [
        Clip(voice=voice, text=text, name=f"{voice.name}_{split}_prompt_{index}")
        for index, text in enumerate(draw_texts(lists, PROMPT_LENGTHS, size.prompts, rng))
    ]
    prompt_texts = {prompt.text for prompt in prompts}
    rest = {length: [text for text in texts if text not in prompt_texts] for length, texts in lists.items()}
    start = index % len(LENGTHS)
    texts = draw_texts(rest, LENGTHS[start:] + LENGTHS[:start], size.items, rng)
    return [
        EvalItem(id=f"{split}-{voice.name}-{index:03d}", prompt=prompts[index % size.prompts], text=text)
        for index, text in enumerate(texts)
    ]


# Files


def write_clips(clips: Iterable[Clip], folder: Path, speak: DigitSynthesizer) -> list[float]:
    """Synthesize all clips to FLAC files in `folder`; return their durations in seconds."""
    folder.mkdir(exist_ok=True)
    durations = []
    for clip in tqdm(clips, desc=f"synthesizing into {folder}", unit="clip"):
        wave = speak(clip.voice, clip.text)
        soundfile.write(folder / f"{clip.name}.flac", wave, SAMPLE_RATE, subtype="PCM_16")
        durations.append(len(wave) / SAMPLE_RATE)
    return durations


def write_training(folder: Path, out: Path, per_voice: int, speak: DigitSynthesizer) -> None:
    """Write the training utterances, their table, durations and vocabulary; rows name files below `out`."""
    from datasets import Dataset, disable_progress_bars

    clips = train_clips(per_voice)
    durations = write_clips(clips, folder / "wavs", speak)
    rows = [
        {"audio_path": wav_path(out, clip), "text": clip.text, "duration": seconds, "speaker": clip.voice.name}
        for clip, seconds in zip(clips, durations, strict=True)
    ]
    disable_progress_bars()
    Dataset.from_list(rows).save_to_disk(folder / "raw")
    (folder / "duration.json").write_text(json.dumps({"duration": durations}) + "\n")
    (folder / "vocab.txt").write_text("".join(f"{symbol}\n" for symbol in SYMBOLS))


def write_eval_set(folder: Path, out: Path, split: str, items: Sequence[EvalItem], speak: DigitSynthesizer) -> None:
    """Write the evaluation list of a split and its prompts; targets are synthesized to measure their duration."""
    write_clips(dict.fromkeys(item.prompt for item in items), folder / "wavs", speak)
    rows = [
        {
            "id": item.id,
            "prompt_audio": wav_path(out, item.prompt),
            "prompt_text": item.prompt.text,
            "text": item.text,
            "duration": len(speak(item.prompt.voice, item.text)) / SAMPLE_RATE,
            "speaker": item.prompt.voice.name,
            "seen": item.prompt.voice in TRAIN_VOICES,
        }
        for item in tqdm(items, desc=f"timing the {split} targets", unit="clip")
    ]
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def wav_path(out: Path, clip: Clip) -> str:
    """Return the path of the clip in the finished corpus, relative to the working directory."""
    return (out / "wavs" / f"{clip.name}.flac").as_posix()


def make_corpus(recipe: Recipe, out: Path) -> None:
    """Write the corpus to a temporary folder beside `out`, then rename it; an earlier corpus is replaced."""
    folder = out.with_name(out.name + ".partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    speak = DigitSynthesizer()
    write_training(folder, out, recipe.per_voice, speak)
    for split in recipe.eval_splits:
        write_eval_set(folder, out, split, eval_items(split), speak)
    if out.exists():
        shutil.rmtree(out)
    folder.rename(out)


def is_complete(out: Path) -> bool:
    """Check whether a finished corpus is in the folder; an unfinished one has another name."""
    return all((out / name).exists() for name in ("raw", "wavs", "duration.json", "vocab.txt"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: make one of the corpora unless it exists; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.digits.make_corpus", description=__doc__)
    parser.add_argument("kind", choices=RECIPES)
    parser.add_argument(
        "--out", type=user_path, metavar="DIR", help="default: data/mini_custom or data/mini_base_custom"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing corpus")
    args = parser.parse_args(argv)
    recipe = RECIPES[args.kind]
    out = args.out or recipe.out
    if is_complete(out) and not args.force:
        print(f"{out} is complete; --force replaces it")
        return 0
    if out.exists() and not args.force:
        parser.error(f"{out} exists and is not a finished corpus; name another --out, or replace it with --force")
    try:
        make_corpus(recipe, out)
    except (ImportError, PermissionError) as error:
        parser.error(str(error))
    print(f"wrote {out}; next: f5-tts train -cn F5TTS_Mini datasets.name={out.name.removesuffix('_custom')}")
    return 0


if __name__ == "__main__":
    run_command(lambda argv: not main(argv), sys.argv[1:])
