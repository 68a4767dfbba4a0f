"""Names and formats of weights; nobody else writes them, and what files hold is read by `tensors` alone.

In a save dir `model_last.pt` is sought first, then the highest `model_<update>.pt`, then
`pretrained_*.{pt,safetensors}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from f5_tts.config.schema import ModelConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.files import write_atomically
from f5_tts.model.cfm import CFM
from f5_tts.model.lora import merged_weights, with_zero_adapters
from f5_tts.model.safe_load import check_tensors, checksum, read_file

RAW, EMA = "model_state_dict", "ema_model_state_dict"  # the weights in a training checkpoint
LORA = "lora"  # there, of a run with LoRA: its settings and adapters; the weights have them merged
EMA_PREFIX = "ema_model."
HEAD = "transformer.proj_out_ln_sig."
TEXT_EMBEDDING = "transformer.text_embed.text_embed.weight"  # one row a symbol, and the filler's
NOT_WEIGHTS = ("initted", "step", "update", "mel_spec.")  # what published files hold beside them
SPEC_KEYS = ("backbone", "tokenizer", "arch", "mel_spec")  # keys of `model` without which weights mean nothing
PROVENANCE_KEYS = (
    "objective",
    "model",
    "vocabulary",
)  # what a training checkpoint says of its weights: stage, and their card
TEMP_GLOB = ".*.part"  # names of files that are being written
RUNTIME_KEYS = {"arch.dropout", "arch.checkpoint_activations"}  # of those, what a run may change
CHECKSUM = "checksum"  # in the header of exported weights
PAYLOAD_TYPES: dict[str, type] = {
    LORA: dict,
    "optimizer_state_dict": dict,
    "scheduler_state_dict": dict,
    "skips": dict,
    "origin": dict,
    "model": dict,
    "vocabulary": list,
    "bad_rows": list,
    "objective": str,
    "recommended": str,
    "update": int,
    "step": int,
}  # what these keys of a checkpoint hold, where they are there


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """What the weights in a file mean: the `model` section of the run that made them, and their vocabulary."""

    model: dict[str, Any]
    vocabulary: list[str]

    @classmethod
    def of(cls, model: ModelConfig, vocabulary: Vocabulary) -> ModelSpec:
        return cls(model=asdict(model), vocabulary=list(vocabulary.symbols))

    def comparable_keys(self) -> dict[str, Any]:
        """The keys that weights are good for, flat: `arch.dim` -> 1024."""
        flat = flatten({key: self.model[key] for key in SPEC_KEYS if key in self.model})
        return {key: value for key, value in flat.items() if key not in RUNTIME_KEYS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A file of weights: what a model loads, and for a training checkpoint the rest of its run."""

    path: Path
    weights: dict[str, Tensor]
    payload: dict[str, Any]  # optimizer_state_dict, update, ...; of bare weights the average alone
    weights_kind: str = "raw"  # of its weights those are: raw or ema

    @property
    def has_head(self) -> bool:
        return any(name.startswith(HEAD) for name in self.weights)

    @property
    def has_trained_head(self) -> bool:
        """Whether its Gaussian head has learnt anything: a new one says the same everywhere, by weights of zero."""
        weight = self.weights.get(f"{HEAD}weight")
        return weight is not None and bool(weight.any())

    @property
    def update(self) -> int:
        """How many updates made it; older files call them steps."""
        average = self.payload.get(EMA, {})
        return int(self.payload.get("update", self.payload.get("step", average.get("step", 0))))

    @property
    def spec(self) -> ModelSpec | None:
        """What the file says about its weights; None for files that say nothing."""
        if not {"model", "vocabulary"} <= self.payload.keys():
            return None
        return ModelSpec(model=self.payload["model"], vocabulary=self.payload["vocabulary"])

    def with_weights(self, weights_kind: str | None = None) -> Checkpoint:
        """The same file with its `raw` weights or their average, `ema`; None: those that it recommends itself.

        A file that recommends none speaks with its average, as in F5-TTS.

        Raises ValueError when the file has no such weights.
        """
        weights_kind = weights_kind or self.payload.get("recommended", "ema" if EMA in self.payload else "raw")
        key, other_kind = (RAW, "ema") if weights_kind == "raw" else (EMA, "raw")
        if key not in self.payload:
            raise ValueError(f"{self.path} holds no {weights_kind} weights; it has the {other_kind} ones")
        return replace(self, weights=strip_wrappers(self.payload[key]), weights_kind=weights_kind)

    def weights_only(self) -> Checkpoint:
        """Its weights and what they mean, without the run that made them: a new run starts from them."""
        return replace(self, payload={key: self.payload[key] for key in PROVENANCE_KEYS if key in self.payload})


def find_checkpoint(save_dir: Path, *, pretrained: bool) -> Path | None:
    """The checkpoint a run in `save_dir` starts from; `pretrained_*` files count for stage 1 only.

    Raises ValueError where there are several of these to choose from.
    """
    last = save_dir / "model_last.pt"
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
    """The files `model_<update>.pt` of a folder, oldest first."""
    numbered = [
        (int(m[1]), path) for path in save_dir.glob("model_*.pt") if (m := re.fullmatch(r"model_(\d+)", path.stem))
    ]
    return [path for _, path in sorted(numbered)]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read any file of ours or of a published model: training checkpoints give raw weights, bare files EMA weights.

    Raises what read_file raises, and ValueError for a file without weights.
    """
    payload = read_file(path)
    if path.suffix == ".safetensors":
        payload = {EMA: payload, **read_header(path, payload)}
    contents = payload if isinstance(payload, dict) else {}
    weights, weights_kind = (contents[RAW], "raw") if contents.get(RAW) else (contents.get(EMA), "ema")
    if not isinstance(weights, dict):
        raise ValueError(f"{path} holds neither {RAW} nor {EMA}")
    check_payload(contents, path)
    return Checkpoint(path=path, weights=strip_wrappers(weights), weights_kind=weights_kind, payload=contents)


def check_payload(payload: Mapping[Any, Any], path: Path) -> None:
    """See that what a checkpoint says is of the kinds that are read from it; ValueError names the first key."""
    for key, kind in PAYLOAD_TYPES.items():
        if not isinstance(payload.get(key, kind()), kind):
            raise ValueError(
                f"{path} is no checkpoint: {key} is {type(payload[key]).__name__}, where {kind.__name__} is due"
            )
    if not all(isinstance(symbol, str) for symbol in payload.get("vocabulary", [])):
        raise ValueError(f"{path} is no checkpoint: vocabulary holds more than text")
    if payload.get("recommended", "raw") not in ("raw", "ema"):
        raise ValueError(f"{path} recommends {payload['recommended']!r}, which is neither raw nor ema")
    for weights in (payload.get(RAW, {}), payload.get(EMA, {})):
        check_tensors(weights, path)
        if not all(value.numel() == 1 for name, value in weights.items() if name == "step"):
            raise ValueError(f"{path} is no checkpoint: its step is no single number")


def strip_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in the model, single precision: without EMA prefix, counters and old mel buffers."""
    named = {name.removeprefix(EMA_PREFIX): value for name, value in weights.items()}
    model_weights = {name: value for name, value in named.items() if not name.startswith(NOT_WEIGHTS)}
    return {name: value.float() if value.is_floating_point() else value for name, value in model_weights.items()}


def load_weights(model: CFM, checkpoint: Checkpoint, log: Callable[[str], None] = print) -> None:
    """Load weights strictly, as `matched_weights` gives them; adapters beside them are set to change nothing."""
    model.load_state_dict(with_zero_adapters(model, match_weights(model, checkpoint, log)))


def match_weights(model: CFM, checkpoint: Checkpoint, log: Callable[[str], None] = print) -> dict[str, Tensor]:
    """A checkpoint's weights for every tensor of the model, plain; only a Gaussian head may be missing or left over,
    and that is said.

    Raises ValueError that names the first keys that differ, with both shapes, and for a tensor that is not finite.
    """
    weights, current = dict(checkpoint.weights), merged_weights(model)
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
    """The tensors that a model and a file do not share by name and shape, each with both shapes."""
    names = sorted(current.keys() | weights.keys())
    shapes = {name: (shape_of(current.get(name)), shape_of(weights.get(name))) for name in names}
    return [
        f"{name}: {current_shape} here, {file_shape} in the file"
        for name, (current_shape, file_shape) in shapes.items()
        if current_shape != file_shape
    ]


def explain_mismatch(current: Mapping[str, Tensor], weights: Mapping[str, Tensor], mismatched: list[str]) -> str:
    """Why weights do not fit: another number of symbols where nothing else differs, else another config."""
    if len(mismatched) == 1 and mismatched[0].startswith(TEXT_EMBEDDING) and TEXT_EMBEDDING in weights:
        num_current, num_saved = num_symbols(current), num_symbols(weights)
        return (
            f"its vocabulary has {num_saved} symbols, this run's {num_current}; set model.tokenizer_path (to speak: -v)"
        )
    return "it was trained with another model.arch, model.mel_spec or vocabulary; choose its config (-cn, to speak -m)"


def check_spec(checkpoint: Checkpoint, spec: ModelSpec, log: Callable[[str], None] = print) -> None:
    """See that weights mean in this run what they meant in the run that made them: `card` is this run's.

    Keys that differ are said one by one. Raises ValueError for another vocabulary: every text would be garbled.
    """
    saved = checkpoint.spec
    if saved is None:
        log(f"{checkpoint.path} does not say which model keys and vocabulary it was made with: this run's are assumed")
        return
    if saved.vocabulary != spec.vocabulary:
        mismatch = describe_vocab_mismatch(spec.vocabulary, saved.vocabulary)
        raise ValueError(f"{checkpoint.path} has another vocabulary: {mismatch}")
    saved_keys, current_keys = saved.comparable_keys(), spec.comparable_keys()
    for key in sorted(saved_keys.keys() | current_keys.keys()):
        if saved_keys.get(key) != current_keys.get(key):
            log(
                f"{checkpoint.path} was made with model.{key}={saved_keys.get(key)}, this run has "
                f"{current_keys.get(key)}"
            )


def num_symbols(weights: Mapping[str, Tensor]) -> int:
    """The size of the vocabulary that weights index; one row of the embedding is filler."""
    return len(weights[TEXT_EMBEDDING]) - 1 if TEXT_EMBEDDING in weights else 0


def describe_vocab_mismatch(current: Sequence[str], saved: Sequence[str]) -> str:
    """Where two vocabularies part, and how to get the other one."""
    line = next(
        (i for i, (a, b) in enumerate(zip(current, saved, strict=False)) if a != b), min(len(current), len(saved))
    )
    symbols = [repr(symbols[line]) if line < len(symbols) else "nothing" for symbols in (current, saved)]
    return (
        f"{len(current)} symbols here, {len(saved)} there, and line {line + 1} is {symbols[0]} here, {symbols[1]} "
        "there; set model.tokenizer_path (to speak: -v) to the vocabulary it was trained with"
    )


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested section with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def shape_of(value: Tensor | None) -> str:
    return "nothing" if value is None else str(list(value.shape))


def write_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """Write beside and rename: the old file is there until the new one is complete."""
    write_atomically(path, lambda tmp_path: torch.save(payload, tmp_path))


def export_weights(checkpoint: Checkpoint, path: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint's weights bare, as published models have them; what it says of them goes into the header."""
    tensors = published_tensors(checkpoint.weights, dtype) | {"step": torch.tensor(checkpoint.update)}
    spec = {} if checkpoint.spec is None else asdict(checkpoint.spec)
    header = {key: json.dumps(value) for key, value in spec.items()}
    header[CHECKSUM] = checksum(tensors, header)
    write_atomically(path, lambda tmp_path: save_file(tensors, tmp_path, metadata=header))


def read_header(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What an exported file says of its weights; ValueError when it cannot be read, or they are not as exported."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    saved_checksum = header.pop(CHECKSUM, None)  # of published files nobody says one
    if saved_checksum is not None and saved_checksum != checksum(tensors, header):
        raise ValueError(f"{path} is damaged, its weights have another checksum than its header says: export it again")
    unexpected = sorted(header.keys() - {"model", "vocabulary"}) if "vocabulary" in header else []
    if unexpected:  # perhaps the checksum, by a damaged name
        raise ValueError(
            f"{path} has a damaged header: it holds {unexpected[0]!r}, which no export writes; export it again"
        )
    try:
        return {key: json.loads(header[key]) for key in ("model", "vocabulary") if key in header}
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} has a damaged header ({error}): export it again") from error


def published_tensors(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Names as published files have them: prefix `ema_model.`, an EMA's counters, no Gaussian head.

    Rotary frequencies stay in single precision: rounded, they would shift far positions.
    """
    published = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
    tensors = {
        EMA_PREFIX + name: (value if name.endswith("inv_freq") else value.to(dtype)).contiguous()
        for name, value in published.items()
    }
    return tensors | {"initted": torch.tensor(True), "step": torch.tensor(0)}
