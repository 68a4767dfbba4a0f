"""Extend the vocabulary of a checkpoint, so that it can be fine-tuned for texts with other symbols.

`python -m f5_tts.scripts.extend_vocab CKPT VOCAB OUT` takes any list of symbols. OUT gets the checkpoint, with rows of
the text embedding for the symbols that it lacks, and a vocab.txt that begins with its own.
"""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("extend-vocab")

from argparse import Namespace
from pathlib import Path

from f5_tts.data.tokenizer import Vocabulary, read_vocabulary, with_new_symbols, write_vocabulary
from f5_tts.download.hub import find_file
from f5_tts.model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint, write_published
from f5_tts.model.grow import grow, known_vocabulary
from f5_tts.model.payload import EMA, RAW
from f5_tts.train.checkpoint_dir import initial_weights, sha256_of

NUM_SHOWN = 20  # new symbols that are listed


def extend(checkpoint: Checkpoint, added: Vocabulary, folder: Path, base: Path | None = None) -> Path:
    """Write the checkpoint, grown by the symbols of `added` that it lacks, and its vocab.txt; return its path.

    The initial weights of a run of stage 2 grow with it. Prints how many symbols are new.

    Raises:
        ValueError: the checkpoint's vocabulary is not known or cannot grow, or `base` is not it.
        FileExistsError: the folder holds a checkpoint of this name.
    """
    old = known_vocabulary(checkpoint, base)
    if old is None:
        raise ValueError(f"{checkpoint.path} does not hold its vocabulary: name it by --base_vocab FILE")
    symbols = with_new_symbols(old, added.symbols)
    grown = grow(checkpoint, old, symbols)
    path = folder / checkpoint.path.with_suffix(".pt" if RAW in grown.payload else checkpoint.path.suffix).name
    if path.exists():
        raise FileExistsError(f"{path} would be overwritten: choose another folder")
    print(f"{checkpoint.path} has {len(old)} symbols; {describe(symbols[len(old) :])}")
    if "origin" in checkpoint.payload:
        grown.payload["origin"] = write_reference(grow(initial_weights(checkpoint), old, symbols), folder)
    write(grown, path)
    write_vocabulary(symbols, folder / "vocab.txt")
    return path


def describe(new: list[str]) -> str:
    """Describe the symbols that are new."""
    if not new:
        return "it has every symbol of the list, and is written as it is"
    more = f", and {len(new) - NUM_SHOWN} more" if len(new) > NUM_SHOWN else ""
    return f"{len(new)} are new: {', '.join(map(repr, new[:NUM_SHOWN]))}{more}"


def write_reference(reference: Checkpoint, folder: Path) -> dict[str, str]:
    """Write the initial weights of stage 2; return the file's name and its SHA-256."""
    path = folder / reference.path.name
    write(reference, path)
    return {"file": path.name, "sha256": sha256_of(path)}


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint in the format of its name."""
    if path.suffix == ".safetensors":
        write_published(path, checkpoint.payload[EMA], checkpoint.spec)
    else:
        write_checkpoint(path, checkpoint.payload)


def run(arguments: Namespace) -> bool:
    """Run the command: write the files, and print how a run starts from them."""
    checkpoint = read_checkpoint(find_file(arguments.checkpoint, "CKPT"))
    path = extend(checkpoint, read_vocabulary(arguments.vocab), arguments.folder, arguments.base_vocab)
    vocab = arguments.folder / "vocab.txt"
    print(f"wrote {path} and {vocab}; next: f5-tts train ckpts.init_from={path} model.tokenizer_path={vocab}")
    return True
