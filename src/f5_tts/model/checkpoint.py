"""Checkpoint files: their names, formats and contents.

In a save dir `model_last.pt` is used first, then the highest `model_<update>.pt`, then `pretrained_*.{pt,safetensors}`.
Only this module writes weights, and only `safe_load` reads the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from f5_tts.config.schema import ModelConfig
from f5_tts.config.yaml_files import WITHOUT_TENSORS, look_alikes
from f5_tts.data.tokenizer import Vocabulary, with_space
from f5_tts.files import write_atomically
from f5_tts.model.cfm import CFM
from f5_tts.model.lora import merged_weights, with_zero_adapters
from f5_tts.model.payload import EMA, RAW, check_payload
from f5_tts.model.safe_load import checksum, is_safetensors, read_file

LAST = "model_last.pt"  # the newest state of a run
BEST = "model_best.pt"  # the state with the best validation
EMA_PREFIX = "ema_model."
HEAD = "transformer.proj_out_ln_sig."
TEXT_EMBEDDING = "transformer.text_embed.text_embed.weight"  # one row per symbol, and one for the filler
WRAPPERS = {  # names that wrappers of a model put before or into the names of its tensors
    "module": "DistributedDataParallel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "checkpointing of activations",
    "online_model": "EMA",
    "ema_model": "EMA",
}
NOT_WEIGHTS = ("initted", "step", "update", "mel_spec.")  # other entries of published files
SPEC_KEYS = ("backbone", "tokenizer", "arch", "mel_spec")  # keys of `model` that determine what the weights mean
PROVENANCE_KEYS = (
    "objective",
    "model",
    "vocabulary",
)  # entries of a training checkpoint about its weights
TEMP_GLOB = ".*.part"  # temporary names during a write
RUNTIME_KEYS = {
    "arch.dropout",
    "arch.checkpoint_activations",
    "arch.attn_backend",
}  # keys among them that a run may change
EXTEND = "f5-tts extend-vocab"
CHECKSUM = "checksum"  # key in the header of exported weights


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """Specification of a file's weights: the `model` section of the run that made them, and their vocabulary."""

    model: dict[str, Any]
    vocabulary: list[str]

    @classmethod
    def of(cls, model: ModelConfig, vocabulary: Vocabulary) -> ModelSpec:
        """Build the specification of a model config and its vocabulary."""
        return cls(model=asdict(model), vocabulary=list(vocabulary.symbols))

    def comparable_keys(self) -> dict[str, Any]:
        """Return the keys that determine what the weights mean, flattened: `arch.dim` -> 1024."""
        flat = flatten({key: self.model[key] for key in SPEC_KEYS if key in self.model})
        return {key: value for key, value in flat.items() if key not in RUNTIME_KEYS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A file of weights: what a model loads and, in a training checkpoint, the rest of the training state."""

    path: Path
    weights: dict[str, Tensor]
    payload: dict[str, Any]  # optimizer_state_dict, update, ...; for bare weights the EMA weights only
    weights_kind: str = "raw"  # which weights `weights` holds: raw or ema
    is_bare: bool = False  # the file holds tensors alone

    @property
    def has_head(self) -> bool:
        """Check whether the weights include a Gaussian head."""
        return any(name.startswith(HEAD) for name in self.weights)

    @property
    def has_trained_head(self) -> bool:
        """Check whether the Gaussian head was trained; a new head has zero weights and a constant output."""
        weight = self.weights.get(f"{HEAD}weight")
        return weight is not None and bool(weight.any())

    @property
    def update(self) -> int:
        """Return the number of optimizer updates behind the weights; older files call them steps."""
        average = self.payload.get(EMA, {})
        return int(self.payload.get("update", self.payload.get("step", average.get("step", 0))))

    @property
    def spec(self) -> ModelSpec | None:
        """Return the specification that the file holds, or None if it holds none."""
        if not {"model", "vocabulary"} <= self.payload.keys():
            return None
        return ModelSpec(model=self.payload["model"], vocabulary=list(with_space(self.payload["vocabulary"])))

    def with_weights(self, weights_kind: str | None = None) -> Checkpoint:
        """Return the same file with its `raw` or `ema` weights; None selects those that the file recommends.

        A file without a recommendation uses its EMA weights if it has them, as in F5-TTS. Where it recommends an
        average that somebody has removed, None selects its raw weights.

        Raises:
            ValueError: the file does not hold the requested weights.
        """
        weights_kind = weights_kind or (self.payload.get("recommended", "ema") if EMA in self.payload else "raw")
        key, other_kind = (RAW, "ema") if weights_kind == "raw" else (EMA, "raw")
        if key not in self.payload:
            raise ValueError(f"{self.path} holds no {weights_kind} weights; it has the {other_kind} ones")
        return replace(self, weights=strip_wrappers(self.payload[key]), weights_kind=weights_kind)

    def weights_only(self) -> Checkpoint:
        """Return the weights and their specification without the training state, as the start of a new run."""
        return replace(self, payload={key: self.payload[key] for key in PROVENANCE_KEYS if key in self.payload})


def find_checkpoint(save_dir: Path, *, pretrained: bool) -> Path | None:
    """Find the checkpoint from which a run in `save_dir` starts, or None if there is none.

    `pretrained_*` files count only if `pretrained` is true, which is stage 1.

    Raises:
        ValueError: there are several `pretrained_*` files to choose from.
    """
    last = save_dir / LAST
    if last.is_file():
        return last
    numbered = numbered_checkpoints(save_dir)
    if numbered:
        return numbered[-1]
    files = sorted(path for path in save_dir.glob("pretrained_*") if path.suffix in {".pt", ".safetensors"})
    if pretrained and len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise ValueError(f"{save_dir} has {names}, and a run starts from one: move the others away")
    return files[0] if files and pretrained else None


def numbered_checkpoints(save_dir: Path) -> list[Path]:
    """List the files `model_<update>.pt` of a folder, oldest first."""
    return sorted(
        (path for path in save_dir.glob("model_*.pt") if re.fullmatch(r"model_\d+", path.stem)), key=update_of
    )


def update_of(path: Path) -> int:
    """Return the update in the name of a numbered checkpoint."""
    return int(path.stem.removeprefix("model_"))


def read_checkpoint(path: Path, mapped: bool = False) -> Checkpoint:
    """Read a checkpoint of this project or of a published model; `mapped` leaves its tensors in the file until used.

    Training checkpoints give their raw weights, files of bare weights count as EMA weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds no weights, or holds more than tensors and plain values.
    """
    payload = read_file(path, mapped)
    contents = payload if isinstance(payload, dict) else {}
    if is_bare := bool(contents) and all(isinstance(value, Tensor) for value in contents.values()):
        contents = {EMA: contents, **(read_header(path, contents) if is_safetensors(path) else {})}
    kinds = [key for key in (RAW, EMA) if isinstance(contents.get(key), dict) and contents[key]]
    if not kinds:
        entries = f"; its entries are {', '.join(map(str, contents))[:200]}" if contents else ""
        raise ValueError(f"{path} holds neither {RAW} nor {EMA}, and is no state dict by itself{entries}")
    check_payload(contents, path)
    weights, weights_kind = contents[kinds[0]], "raw" if kinds[0] == RAW else "ema"
    return Checkpoint(
        path=path, weights=strip_wrappers(weights), weights_kind=weights_kind, payload=contents, is_bare=is_bare
    )


def read_specification(path: Path) -> Checkpoint:
    """Read a checkpoint without its weights: of a safetensors file the header alone, unchecked."""
    if not (path.is_file() and is_safetensors(path)):
        return replace(read_checkpoint(path), weights={})
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from error
    return Checkpoint(path=path, weights={}, payload=parse_header(header, path))


def strip_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in float32 by the model's own names, without wrappers, counters and old mel buffers.

    Of an average beside the model that it is of, the average is taken.
    """
    averages_last = sorted(weights, key=lambda name: "online_model" not in name.split("."))
    named = {plain_name(name): weights[name] for name in averages_last}
    model_weights = {name: value for name, value in named.items() if not name.startswith(NOT_WEIGHTS)}
    return {name: value.float() if value.is_floating_point() else value for name, value in model_weights.items()}


def plain_name(name: str) -> str:
    """Return the name of a tensor without what wrappers of the model put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def describe_wrappers(checkpoint: Checkpoint) -> str:
    """Describe the wrappers in the names of a file's weights; a published file has the prefix of an EMA alone."""
    weights = checkpoint.payload.get(RAW if checkpoint.weights_kind == "raw" else EMA, {})
    found = dict.fromkeys(part for name in weights for part in name.split(".") if part in WRAPPERS)
    return "" if set(found) <= {"ema_model"} else ", ".join(f"{name}. ({WRAPPERS[name]})" for name in found)


def load_weights(model: CFM, checkpoint: Checkpoint, log: Callable[[str], None] = print) -> None:
    """Load weights strictly, as `match_weights` returns them; adapters in the model are set to have no effect."""
    model.load_state_dict(with_zero_adapters(model, match_weights(model, checkpoint, log)))


def match_weights(model: CFM, checkpoint: Checkpoint, log: Callable[[str], None] = print) -> dict[str, Tensor]:
    """Match a checkpoint's weights to the tensors of the model.

    Only a Gaussian head may be missing or left over; this is logged. Names are those of a model without adapters.

    Raises:
        ValueError: names or shapes differ (the first ones are listed with both shapes), or a tensor holds NaN or
            infinity.
    """
    weights, current = dict(checkpoint.weights), merged_weights(model)
    if wrappers := describe_wrappers(checkpoint):
        log(f"{checkpoint.path} was saved from inside a wrapper: the prefixes {wrappers} are left out of its names")
    if non_finite := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise ValueError(f"{checkpoint.path} holds numbers that are NaN or infinite, in {', '.join(non_finite[:3])}")
    if model.is_gaussian and not checkpoint.has_head:
        weights |= {name: value for name, value in current.items() if name.startswith(HEAD)}
        log(f"{checkpoint.path} has no Gaussian head: it starts at model.ln_sigma_init")
    elif checkpoint.has_head and not model.is_gaussian:
        weights = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
        log(f"{checkpoint.path} has a Gaussian head, which this deterministic model leaves out")
    mismatched = mismatches(current, weights)
    if mismatched:
        examples, cause = "; ".join(mismatched[:3]), explain_mismatch(current, weights, mismatched)
        raise ValueError(
            f"{checkpoint.path} does not fit this model ({len(mismatched)} tensors differ; {examples}): {cause}"
        )
    return weights


def mismatches(current: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """List the tensors whose names or shapes differ between a model and a file, each with both shapes."""
    names = sorted(current.keys() | weights.keys())
    shapes = {name: (shape_of(current.get(name)), shape_of(weights.get(name))) for name in names}
    return [
        f"{name}: {current_shape} here, {file_shape} in the file"
        for name, (current_shape, file_shape) in shapes.items()
        if current_shape != file_shape
    ]


def explain_mismatch(current: Mapping[str, Tensor], weights: Mapping[str, Tensor], mismatched: list[str]) -> str:
    """Explain why weights do not fit: other names, another vocabulary size alone, else another config."""
    if not current.keys() & weights.keys():
        prefix = other_prefix(current, weights)
        return f"none of its tensors has a name of this model; {prefix}"
    if len(mismatched) == 1 and mismatched[0].startswith(TEXT_EMBEDDING) and TEXT_EMBEDDING in weights:
        num_current, num_saved = num_symbols(current), num_symbols(weights)
        return (
            f"its vocabulary has {num_saved} symbols, this run's {num_current}; set model.tokenizer_path (for "
            f"inference: -v) to its own, or extend that ({EXTEND})"
        )
    return (
        "it was trained with another model.arch, model.mel_spec or vocabulary; choose its config (-cn, for inference "
        "-m)"
    )


def other_prefix(current: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Explain names of which none is the model's: by a prefix, where that is all that differs."""
    for longer, shorter, whose in ((weights, current, "them"), (current, weights, "those of this model")):
        prefixes = {name.removesuffix(end) for end in list(shorter)[:1] for name in longer if name.endswith(f".{end}")}
        for prefix in prefixes:
            if all(prefix + name in longer for name in shorter):
                return f"the prefix {prefix!r} of {whose} makes the difference: save it under the names of F5-TTS"
    return "it is the file of another kind of model"


def check_spec(checkpoint: Checkpoint, spec: ModelSpec, log: Callable[[str], None] = print) -> None:
    """Check that weights mean the same in this run as in the run that made them.

    The given specification is this run's. Each model key that differs is logged.

    Raises:
        ValueError: the vocabularies differ, so that token ids would stand for other symbols.
    """
    saved = checkpoint.spec
    if saved is None:
        log(
            f"{checkpoint.path} does not say which model keys and vocabulary it was made with: this run's are assumed"
            f"{other_configs(spec) if spec.model['name'] not in checkpoint.path.parts else ''}"
        )
        return
    if saved.vocabulary != spec.vocabulary:
        mismatch = describe_vocab_mismatch(spec.vocabulary, saved.vocabulary)
        raise ValueError(f"{checkpoint.path} has another vocabulary: {mismatch}")
    saved_keys, current_keys = saved.comparable_keys(), spec.comparable_keys()
    for key in sorted(saved_keys.keys() | current_keys.keys()):
        if saved_keys.get(key) != current_keys.get(key):
            log(
                f"{checkpoint.path} was made with model.{key}={saved_keys.get(key)}, this run has "
                f"{current_keys.get(key)}{other_configs(spec) if key.rpartition('.')[2] in WITHOUT_TENSORS else ''}"
            )


def other_configs(spec: ModelSpec) -> str:
    """Name the configs whose weights have the shapes of this one and mean something else; return "" without any."""
    names = look_alikes(spec.model)
    return (
        f"; weights of {' or '.join(names)} have the same shapes and compute other numbers: if these are such, choose "
        "that config (-cn, for inference -m)"
        if names
        else ""
    )


def num_symbols(weights: Mapping[str, Tensor]) -> int:
    """Return the vocabulary size of the weights: the rows of the text embedding without the filler row."""
    return len(weights[TEXT_EMBEDDING]) - 1 if TEXT_EMBEDDING in weights else 0


def describe_vocab_mismatch(current: Sequence[str], saved: Sequence[str]) -> str:
    """Describe where two vocabularies first differ, and how to choose the other one."""
    line = next(
        (i for i, (a, b) in enumerate(zip(current, saved, strict=False)) if a != b), min(len(current), len(saved))
    )
    symbols = [repr(symbols[line]) if line < len(symbols) else "nothing" for symbols in (current, saved)]
    return (
        f"{len(current)} symbols here, {len(saved)} there, and line {line + 1} is {symbols[0]} here, {symbols[1]} "
        "there; set model.tokenizer_path (for inference: -v) to the vocabulary it was trained with, or train with one "
        f"that begins with all its lines ({EXTEND} writes it)"
    )


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested section into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def shape_of(value: Tensor | None) -> str:
    """Return a tensor's shape as text, or "nothing" for None."""
    return "nothing" if value is None else str(list(value.shape))


def write_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write a training checkpoint atomically: the old file stays until the new one is complete."""
    write_atomically(path, lambda tmp_path: torch.save(payload, tmp_path))


def export_weights(checkpoint: Checkpoint, path: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint's weights as a safetensors file of a published model.

    The specification and a checksum go into the header.
    """
    tensors = published_tensors(checkpoint.weights, dtype) | {"step": torch.tensor(checkpoint.update)}
    write_published(path, tensors, checkpoint.spec)


def write_published(path: Path, tensors: dict[str, Tensor], spec: ModelSpec | None) -> None:
    """Write tensors by their published names as a safetensors file, with a specification and a checksum."""
    header = {key: json.dumps(value) for key, value in ({} if spec is None else asdict(spec)).items()}
    header[CHECKSUM] = checksum(tensors, header)
    write_atomically(path, lambda tmp_path: save_file(tensors, tmp_path, metadata=header))


def read_header(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the specification in the header of an exported file; published files have none.

    Raises:
        ValueError: the header cannot be read, or the checksum of the weights differs.
    """
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    saved_checksum = header.pop(CHECKSUM, None)  # published files have none
    if saved_checksum is not None and saved_checksum != checksum(tensors, header):
        raise ValueError(f"{path} is damaged, its weights have another checksum than its header says: export it again")
    unexpected = sorted(header.keys() - {"model", "vocabulary"}) if "vocabulary" in header else []
    if unexpected:  # perhaps the checksum under a damaged name
        raise ValueError(
            f"{path} has a damaged header: it holds {unexpected[0]!r}, which no export writes; export it again"
        )
    return parse_header(header, path)


def parse_header(header: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Parse the specification in a header; raise ValueError if it is damaged."""
    try:
        return {key: json.loads(header[key]) for key in ("model", "vocabulary") if key in header}
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} has a damaged header ({error}): export it again") from error


def published_tensors(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return tensors named as in published files: prefix `ema_model.`, an EMA's counters, no Gaussian head.

    Rotary frequencies stay in float32, because rounding them would shift the positions of late frames.
    """
    published = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
    tensors = {
        EMA_PREFIX + name: (value if name.endswith("inv_freq") else value.to(dtype)).contiguous()
        for name, value in published.items()
    }
    return tensors | {"initted": torch.tensor(True), "step": torch.tensor(0)}
