"""Export a checkpoint as plain weights in the format of published F5-TTS models.

`python -m f5_tts.scripts.export CKPT FOLDER` writes FOLDER/model_<update>.safetensors and FOLDER/vocab.txt, which
F5-TTS loads without changes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from f5_tts.data.tokenizer import read_vocabulary, write_vocabulary
from f5_tts.entrypoint import run_command
from f5_tts.files import user_path
from f5_tts.model.checkpoint import Checkpoint, export_weights, num_symbols, read_checkpoint


def export(checkpoint: Checkpoint, folder: Path, vocabulary: Path | None = None) -> Path:
    """Write the weights in half precision without the Gaussian head, and the vocabulary; return the weights' path.

    `vocabulary` is the file to use for checkpoints that do not hold their own. Raises ValueError if the number of
    symbols is not that of the model.
    """
    symbols = symbols_of(checkpoint, vocabulary)
    trained = num_symbols(checkpoint.weights)
    if (num := len(set(symbols))) != trained:
        raise ValueError(f"{checkpoint.path} was trained with {trained} symbols, {vocabulary} has {num}")
    path = folder / f"model_{checkpoint.update}.safetensors"
    export_weights(checkpoint, path, torch.float16)
    if "\n" not in symbols:  # the byte vocabulary needs no file
        write_vocabulary(symbols, folder / "vocab.txt")
    return path


def symbols_of(checkpoint: Checkpoint, vocabulary: Path | None) -> list[str]:
    """Return the symbols of the checkpoint's own vocabulary, else of the file; raise ValueError without either."""
    if checkpoint.spec is not None:
        return checkpoint.spec.vocabulary
    if vocabulary is None:
        raise ValueError(f"{checkpoint.path} does not hold its vocabulary: add --vocab FILE")
    return list(read_vocabulary(vocabulary).symbols)


def command_line() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(prog="python -m f5_tts.scripts.export", description=__doc__)
    parser.add_argument("checkpoint", type=user_path)
    parser.add_argument("folder", type=user_path)
    parser.add_argument("--weights", choices=["raw", "ema"], help="default: those that the checkpoint recommends")
    parser.add_argument("--vocab", type=user_path, help="the vocabulary, for a checkpoint that does not hold its own")
    return parser


def main(argv: list[str]) -> bool:
    """Run the command: export the checkpoint and print the path and size of the file."""
    arguments = command_line().parse_args(argv)
    path = export(
        read_checkpoint(arguments.checkpoint).with_weights(arguments.weights), arguments.folder, arguments.vocab
    )
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB) and its vocabulary beside it")
    return True


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
