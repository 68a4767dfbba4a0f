"""Command `f5-tts_infer-cli`: synthesis of a text in the voice of one or several recordings, as a WAV file."""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("infer")

import re
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from f5_tts.config.load import with_overrides
from f5_tts.config.schema import SynthesisConfig
from f5_tts.data.audio import write_wav
from f5_tts.entrypoint import run_command
from f5_tts.infer.load import load_synthesizer
from f5_tts.infer.reference import Reference, read_reference
from f5_tts.infer.settings import SpeechOrder, read_command, reference_of, say_flags, voice_table
from f5_tts.infer.silence import shorten_pauses
from f5_tts.infer.synthesizer import SynthesisInput, SynthesisResult, resolve_seed

MAX_NAME_CHARS = 60  # characters of a chunk's text in its file name


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """Reference recording of a voice, and its speed."""

    reference: Reference
    speed: float


# --- voices and texts ---


def read_voices(settings: dict[str, Any], names: set[str], cfg: SynthesisConfig) -> dict[str, Voice]:
    """Load the reference recordings of these voices."""
    return {name: read_voice(name, voice_table(settings, name), cfg) for name in sorted(names)}


def read_voice(name: str, table: dict[str, Any], cfg: SynthesisConfig) -> Voice:
    """Load a voice from a table with ref_audio, ref_text and speed; raise ValueError without ref_audio."""
    speed = [f"infer.speed={table['speed']}"] if "speed" in table else []
    rate = cfg.model.mel_spec.target_sample_rate
    return Voice(
        reference=read_reference(reference_of(table, name), table.get("ref_text", ""), rate, trim=cfg.infer.trim),
        speed=with_overrides(cfg, speed).infer.speed,
    )


# --- files ---


def write_chunks(results: list[SynthesisResult], out: Path, sample_rate: int, *, ascii_names: bool) -> None:
    """Write each chunk as a numbered WAV file, named after its text."""
    folder = out.with_name(f"{out.stem}_chunks")
    chunks = [chunk for result in results for chunk in result.chunks]
    for number, (text, wave) in enumerate(chunks):
        write_wav(folder / f"{number:03d}_{file_name(text, ascii_names)}.wav", wave, sample_rate)
    print(f"wrote {len(chunks)} chunks into {folder}")


def file_name(text: str, ascii_only: bool) -> str:
    """Make a file name of the letters and digits of a text; ASCII names drop accents and other scripts."""
    if ascii_only:
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"\W+", "_", text)[:MAX_NAME_CHARS].strip("_")


# --- command ---


def run_cli(argv: list[str]) -> bool:
    """Read the arguments and run the command."""
    return speak(read_command(argv))


def speak(order: SpeechOrder) -> bool:
    """Synthesize what a command line asks for; all inputs are checked before the model is loaded."""
    settings, cfg, segments, out = order.settings, order.cfg, order.segments, order.out
    files = settings.get("ckpt_file", ""), settings.get("vocab_file", "")
    with say_flags():
        voices = read_voices(settings, {name for name, _ in segments}, cfg)
        synthesizer = load_synthesizer(cfg, *files, settings.get("device"))
    seed = resolve_seed(cfg.infer)
    inputs = [
        SynthesisInput(reference=voices[name].reference, text=text, seed=seed + i, speed=voices[name].speed)
        for i, (name, text) in enumerate(segments)
    ]
    results = synthesizer.synthesize(inputs)
    wave = torch.cat([result.wave for result in results])
    if settings.get("remove_silence"):
        wave = shorten_pauses(wave, synthesizer.sample_rate)
    if settings.get("save_chunk"):
        write_chunks(results, out, synthesizer.sample_rate, ascii_names=not settings.get("no_legacy_text"))
    write_wav(out, wave, synthesizer.sample_rate)
    print(f"wrote {out}, {len(wave) / synthesizer.sample_rate:.1f} s; --seed {seed} speaks it again in the same way")
    return True


def main() -> NoReturn:
    """Run the command with the arguments of the process."""
    run_command(run_cli, sys.argv[1:])
