"""Names and formats of weights; nobody else reads or writes them.

In a save dir `model_last.pt` is sought first, then the highest `model_<update>.pt`, then
`pretrained_*.{pt,safetensors}`.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from f5_tts.model.cfm import CFM

EMA_PREFIX = "ema_model."
HEAD = "transformer.proj_out_ln_sig."


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A file of weights: what a model loads, and for a training checkpoint the rest of its run."""

    path: Path
    weights: dict[str, Tensor]
    run: dict[str, Any]  # optimizer_state_dict, update, ...; empty for bare weights

    @property
    def has_head(self) -> bool:
        return any(name.startswith(HEAD) for name in self.weights)


def find_checkpoint(save_dir: Path, *, pretrained: bool) -> Path | None:
    """The checkpoint a run in `save_dir` starts from; `pretrained_*` files count for stage 1 only."""
    last = save_dir / "model_last.pt"
    if last.is_file():
        return last
    numbered = numbered_checkpoints(save_dir)
    if numbered:
        return numbered[-1]
    files = sorted(path for path in save_dir.glob("pretrained_*") if path.suffix in {".pt", ".safetensors"})
    return files[0] if files and pretrained else None


def numbered_checkpoints(save_dir: Path) -> list[Path]:
    """The files `model_<update>.pt` of a folder, oldest first."""
    found = [
        (int(m[1]), path) for path in save_dir.glob("model_*.pt") if (m := re.fullmatch(r"model_(\d+)", path.stem))
    ]
    return [path for _, path in sorted(found)]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read any file of ours or of a published model: training checkpoints give raw weights, bare files EMA weights.

    Raises what read_file raises, and ValueError for a file without weights.
    """
    payload = read_file(path)
    if path.suffix == ".safetensors":
        payload = {"ema_model_state_dict": payload}
    run = dict(payload) if isinstance(payload, dict) else {}
    weights = run.pop("model_state_dict", None) or run.get("ema_model_state_dict")
    if not isinstance(weights, dict):
        raise ValueError(f"{path} holds neither model_state_dict nor ema_model_state_dict")
    return Checkpoint(path=path, weights=plain_weights(weights), run=run)


def read_file(path: Path) -> Any:
    """What torch.save or safetensors wrote, on the CPU; no code from the file runs.

    Raises FileNotFoundError, or ValueError when the file is damaged or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):
            return torch.load(path, map_location="cpu", weights_only=True)
        raise pickle.UnpicklingError("not an archive as torch.save writes it")
    except (RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as a checkpoint: damaged, or not only weights ({reason})") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a bare state dict; raises what read_file raises, and ValueError for a file that holds no such."""
    tensors = read_file(path)
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} is no state dict: it should hold tensors by their names and nothing else")
    return tensors


def plain_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in the model, single precision: without EMA prefix, EMA counters and old mel buffers."""
    named = {name.removeprefix(EMA_PREFIX): value for name, value in weights.items()}
    kept = {name: value for name, value in named.items() if name.startswith("transformer.")}
    return {name: value.float() if value.is_floating_point() else value for name, value in kept.items()}


def load_weights(model: CFM, checkpoint: Checkpoint, say: Callable[[str], None] = print) -> None:
    """Load weights strictly; only a Gaussian head may be missing or left over, and that is said.

    Raises ValueError that names the first keys that differ, with both shapes.
    """
    weights, own = dict(checkpoint.weights), model.state_dict()
    if model.is_gaussian and not checkpoint.has_head:
        weights |= {name: value for name, value in own.items() if name.startswith(HEAD)}
        say(f"{checkpoint.path} has no Gaussian head: it starts at model.ln_sigma_init")
    elif checkpoint.has_head and not model.is_gaussian:
        weights = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
        say(f"{checkpoint.path} has a Gaussian head, which this deterministic model leaves out")
    wrong = differences(own, weights)
    if wrong:
        raise ValueError(
            f"{checkpoint.path} does not fit this model ({len(wrong)} tensors differ; {'; '.join(wrong[:3])}): "
            "it was trained with another model.arch, model.mel_spec or vocabulary; choose its config with -cn"
        )
    model.load_state_dict(weights)


def differences(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """The tensors that a model and a file do not share by name and shape, each with both shapes."""
    names = sorted(own.keys() | weights.keys())
    shapes = {name: (shape_of(own.get(name)), shape_of(weights.get(name))) for name in names}
    return [f"{name}: {here} here, {there} in the file" for name, (here, there) in shapes.items() if here != there]


def shape_of(value: Tensor | None) -> str:
    return "nothing" if value is None else str(list(value.shape))


def write_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write beside and rename: the old file is there until the new one is complete."""
    replace_file(path, lambda part: torch.save(payload, part))


def export_weights(weights: dict[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write bare weights as published models have them: safetensors, prefix `ema_model.`, no Gaussian head.

    Rotary frequencies stay in single precision: rounded, they would shift far positions.
    """
    kept = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
    tensors = {
        EMA_PREFIX + name: (value if name.endswith("inv_freq") else value.to(dtype)).contiguous()
        for name, value in kept.items()
    }
    tensors |= {"initted": torch.tensor(True), "step": torch.tensor(0)}
    replace_file(path, lambda part: save_file(tensors, part))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file under another name, then put it in place; others may read it as any new file."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode  # some libraries write files that nobody else may read
        write(part)
        part.chmod(mode)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {path} ({error}): is the disk full, or is {path.parent} not yours to write in?"
        ) from error
