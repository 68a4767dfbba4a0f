"""Interpolate between the weights at the start of a run and those that it trained.

`python -m f5_tts.scripts.interpolate CKPT OUT` goes a share of the way, in a straight line. The result often keeps more
of the first model's voice, at about as few errors, as fewer updates would (WiSE-FT, Wortsman et al. 2022, arXiv
2109.01903; WARP, Ramé et al. 2024, arXiv 2406.16768).
"""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("interpolate")

import shlex
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from f5_tts.model.checkpoint import HEAD, Checkpoint, export_weights, read_checkpoint
from f5_tts.train.checkpoint_dir import initial_weights


def interpolate(base: Checkpoint, trained: Checkpoint, share: float) -> Checkpoint:
    """Return `trained` with the weights θ0 + share (θ - θ0) in single precision, from θ0 of `base`, without the head.

    Raises ValueError for weights of other names or shapes.
    """
    old, new = without_head(base), without_head(trained)
    if difference := describe_difference(old, new):
        raise ValueError(f"{base.path} and {trained.path} are not weights of one model: {difference}")
    weights = {name: torch.lerp(old[name].float(), new[name].float(), share) for name in new}
    return replace(trained, weights=weights)


def without_head(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights without the Gaussian head, which no inference needs."""
    return {name: value for name, value in checkpoint.weights.items() if not name.startswith(HEAD)}


def describe_difference(old: dict[str, Tensor], new: dict[str, Tensor]) -> str:
    """Describe the first weight that only one model has, or that has two shapes; empty without a difference."""
    if alone := sorted(old.keys() ^ new.keys()):
        return f"only one has {alone[0]}"
    shapes = {name: (tuple(old[name].shape), tuple(new[name].shape)) for name in new}
    others = [f"{name} is {first} and {second}" for name, (first, second) in shapes.items() if first != second]
    return others[0] if others else ""


def base_of(trained: Checkpoint, base: Path | None) -> Checkpoint:
    """Read the weights at the start: the file `base`, else those that the checkpoint names; ValueError without any."""
    if base is not None:
        return read_checkpoint(base).with_weights()
    if "origin" not in trained.payload:
        raise ValueError(f"{trained.path} does not name the weights at its start: add --base FILE")
    file = trained.path.with_name(trained.payload["origin"]["file"])
    if not file.is_file():
        raise FileNotFoundError(
            f"no {file}, the weights at the start of {trained.path}: restore it, or add --base FILE"
        )
    return initial_weights(trained).with_weights()


def run(arguments: Namespace) -> bool:
    """Run the command: write the weights, and print between what they lie."""
    if arguments.out.suffix != ".safetensors":
        raise ValueError(f"OUT is {arguments.out}: a file of weights ends in .safetensors")
    if arguments.out.exists():
        raise FileExistsError(f"{arguments.out} would be overwritten: choose another file")
    trained, share = read_checkpoint(arguments.checkpoint).with_weights(arguments.weights), arguments.share
    base = base_of(trained, arguments.base)
    export_weights(interpolate(base, trained, share), arguments.out, torch.float32)
    print(
        f"wrote {arguments.out}: {share:g} of the way from {base.path} to {trained.path} (update {trained.update}, "
        f"{trained.weights_kind} weights); next: f5-tts evaluate eval.ckpt={shlex.quote(str(arguments.out))}"
    )
    return True
