"""A training checkpoint -> bare weights as published models have them.

`python -m f5_tts.scripts.export CKPT FOLDER --vocab FILE` writes FOLDER/model_<update>.safetensors and
FOLDER/vocab.txt.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch

from f5_tts.command import command
from f5_tts.data.text import read_vocabulary
from f5_tts.model.checkpoint import export_weights, read_checkpoint


def export(checkpoint: Path, folder: Path, vocabulary: Path) -> Path:
    """Half precision, raw weights, no Gaussian head; returns the weights' path."""
    read_vocabulary(vocabulary)  # so that a broken one is refused here, not by its next user
    found = read_checkpoint(checkpoint)
    path = folder / f"model_{found.run.get('update', 0)}.safetensors"
    export_weights(found.weights, path, torch.float16)
    shutil.copyfile(vocabulary, folder / "vocab.txt")
    return path


def main(argv: list[str]) -> bool:
    parser = argparse.ArgumentParser(prog="python -m f5_tts.scripts.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocab", type=Path, required=True, help="the vocabulary that the model was trained with")
    arguments = parser.parse_args(argv)
    path = export(arguments.checkpoint, arguments.folder, arguments.vocab)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB) and {path.parent / 'vocab.txt'}")
    return True


if __name__ == "__main__":
    command(main, sys.argv[1:])
