"""Export a checkpoint as plain weights in the format of published F5-TTS models.

`python -m f5_tts.scripts.export CKPT FOLDER` writes FOLDER/model_<update>.safetensors and FOLDER/vocab.txt, which
F5-TTS loads without changes, and beside them a model card and a config. `--push ORG/NAME` uploads the folder.
"""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("export")

import shlex
from argparse import Namespace
from pathlib import Path

import torch

from f5_tts.data.tokenizer import read_vocabulary, write_vocabulary
from f5_tts.download.hub import push_files
from f5_tts.eval.results import read_result
from f5_tts.model.checkpoint import Checkpoint, export_weights, num_symbols, read_checkpoint
from f5_tts.model.payload import EMA, RAW
from f5_tts.report.model_card import CONFIG, PUBLISHED, CardDetails, license_of, write_card

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


def card_details(arguments: Namespace, checkpoint: Checkpoint) -> CardDetails:
    """Build what the flags say of the model; raise ValueError for a license that the base model does not allow."""
    base = arguments.base_model or (PUBLISHED if default_dtype(checkpoint) == torch.float32 else None)
    details = CardDetails(
        base_model=base, license=arguments.license, languages=arguments.languages, datasets=arguments.datasets
    )
    license_of(details)
    return details


def run(arguments: Namespace) -> bool:
    """Run the command: export the checkpoint; print the path and size of the file, and what is in it."""
    checkpoint = read_checkpoint(arguments.checkpoint).with_weights(arguments.weights)
    details = card_details(arguments, checkpoint)
    result = None if arguments.eval is None else read_result(arguments.eval)
    path = export(checkpoint, arguments.folder, arguments.vocab, arguments.dtype and getattr(torch, arguments.dtype))
    card, *others = write_card(checkpoint, path, details, arguments.eval, result)
    print(f"model card: {card}; {', '.join(str(other.relative_to(path.parent)) for other in others)}")
    if license_of(details) is None:
        print("the card names no license: --license ID adds one")
    if arguments.push:
        vocabulary = [file for file in [path.parent / "vocab.txt"] if file.is_file()]
        print(f"uploaded to {push_files([path, card, *others, *vocabulary], path.parent, arguments.push)}")
    print(
        f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB) and its vocabulary beside it: "
        f"{describe(checkpoint, arguments.weights, arguments.dtype)}; next: f5-tts infer -mc "
        f"{shlex.quote(str(path.parent / CONFIG))} -p {shlex.quote(str(path))} -t TEXT"
    )
    return True
