"""A checkpoint -> bare weights as published models have them.

`python -m f5_tts.scripts.export CKPT FOLDER` writes FOLDER/model_<update>.safetensors and FOLDER/vocab.txt, which
F5-TTS loads as its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from f5_tts.data.tokenizer import read_vocabulary
from f5_tts.entrypoint import run_command
from f5_tts.files import write_atomically
from f5_tts.model.checkpoint import Checkpoint, export_weights, num_symbols, read_checkpoint


def export(checkpoint: Checkpoint, folder: Path, vocabulary: Path | None = None) -> Path:
    """Half precision, no Gaussian head; returns the weights' path. `vocabulary` is for files that bring none."""
    symbols = symbols_of(checkpoint, vocabulary)
    trained = num_symbols(checkpoint.weights)
    if len(symbols) != trained:
        raise ValueError(f"{checkpoint.path} was trained with {trained} symbols, {vocabulary} has {len(symbols)}")
    path = folder / f"model_{checkpoint.update}.safetensors"
    export_weights(checkpoint, path, torch.float16)
    if "\n" not in symbols:  # bytes, whose vocabulary needs no file
        write_atomically(
            folder / "vocab.txt", lambda tmp_path: tmp_path.write_text("\n".join(symbols) + "\n", encoding="utf-8")
        )
    return path


def symbols_of(checkpoint: Checkpoint, vocabulary: Path | None) -> list[str]:
    """The checkpoint's own vocabulary, else that in the file."""
    if checkpoint.spec is not None:
        return checkpoint.spec.vocabulary
    if vocabulary is None:
        raise ValueError(f"{checkpoint.path} does not hold its vocabulary: add --vocab FILE")
    return list(read_vocabulary(vocabulary).symbols)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m f5_tts.scripts.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", choices=["raw", "ema"], help="default: those that the checkpoint recommends")
    parser.add_argument("--vocab", type=Path, help="the vocabulary, for a checkpoint that does not hold its own")
    return parser


def main(argv: list[str]) -> bool:
    arguments = command_line().parse_args(argv)
    path = export(
        read_checkpoint(arguments.checkpoint).with_weights(arguments.weights), arguments.folder, arguments.vocab
    )
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB) and its vocabulary beside it")
    return True


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
