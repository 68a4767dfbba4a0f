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
from f5_tts.model.payload import EMA, RAW

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}
PUBLISHED_SIZE = 10**8  # weights; published models have more, and are published in float32


def export(
    checkpoint: Checkpoint, folder: Path, vocabulary: Path | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Write the weights without the Gaussian head, and the vocabulary; return the weights' path.

    Without `dtype` it is that of `default_dtype`. `vocabulary` is the file to use for checkpoints that do not hold
    their own. Raises ValueError if the number of symbols is not that of the model.
    """
    symbols = symbols_of(checkpoint, vocabulary)
    trained = num_symbols(checkpoint.weights)
    if (num := len(set(symbols))) != trained:
        raise ValueError(f"{checkpoint.path} was trained with {trained} symbols, {vocabulary} has {num}")
    path = folder / f"model_{checkpoint.update}.safetensors"
    export_weights(checkpoint, path, dtype or default_dtype(checkpoint))
    if "\n" not in symbols:  # the byte vocabulary needs no file
        write_vocabulary(symbols, folder / "vocab.txt")
    return path


def default_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Return float32, as models are published; float16 for models that are smaller than all published ones."""
    num_weights = sum(value.numel() for value in checkpoint.weights.values())
    return torch.float32 if num_weights >= PUBLISHED_SIZE else torch.float16


def describe(checkpoint: Checkpoint, weights: str | None, dtype: str | None) -> str:
    """Say which weights were exported in which precision, and why."""
    kinds = [kind for kind, key in (("raw", RAW), ("ema", EMA)) if key in checkpoint.payload]
    reason = "--weights" if weights else "the only ones" if len(kinds) == 1 else "those that the checkpoint recommends"
    name = str(default_dtype(checkpoint)).removeprefix("torch.")
    size = "published sizes are published so" if name == "float32" else "smaller than any published size"
    precision = f"{dtype} (--dtype)" if dtype else f"{name} ({size})"
    return f"the {checkpoint.weights_kind} weights ({reason}) of update {checkpoint.update}, in {precision}"


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
    parser.add_argument(
        "--dtype", choices=DTYPES, help="default: float32, and float16 for models smaller than published ones"
    )
    return parser


def main(argv: list[str]) -> bool:
    """Run the command: export the checkpoint; print the path and size of the file, and what is in it."""
    arguments = command_line().parse_args(argv)
    checkpoint = read_checkpoint(arguments.checkpoint).with_weights(arguments.weights)
    path = export(checkpoint, arguments.folder, arguments.vocab, DTYPES.get(arguments.dtype))
    print(
        f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB) and its vocabulary beside it: "
        f"{describe(checkpoint, arguments.weights, arguments.dtype)}"
    )
    return True


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
