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
from f5_tts.files import replace_file
from f5_tts.model.cfm import CFM
from f5_tts.model.lora import merged_weights, unchanged
from f5_tts.model.safe_load import check_tensors, checksum, read_file

RAW, AVERAGE = "model_state_dict", "ema_model_state_dict"  # the weights in a training checkpoint
LORA = "lora"  # there, of a run with LoRA: its settings and adapters; the weights have them merged
EMA_PREFIX = "ema_model."
HEAD = "transformer.proj_out_ln_sig."
SYMBOLS = "transformer.text_embed.text_embed.weight"  # one row a symbol, and the filler's
NOT_WEIGHTS = ("initted", "step", "update", "mel_spec.")  # what published files hold beside them
MEANING = ("backbone", "tokenizer", "arch", "mel_spec")  # keys of `model` without which weights mean nothing
ABOUT = ("objective", "model", "vocabulary")  # what a training checkpoint says of its weights: stage, and their card
PARTS = ".*.part"  # names of files that are being written
FREE = {"arch.dropout", "arch.checkpoint_activations"}  # of those, what a run may change
CHECKSUM = "checksum"  # in the header of exported weights
KINDS: dict[str, type] = {
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
class ModelCard:
    """What the weights in a file mean: the `model` section of the run that made them, and their vocabulary."""

    model: dict[str, Any]
    vocabulary: list[str]

    @classmethod
    def of(cls, model: ModelConfig, vocabulary: Vocabulary) -> ModelCard:
        return cls(model=asdict(model), vocabulary=list(vocabulary.symbols))

    def meaning(self) -> dict[str, Any]:
        """The keys that weights are good for, flat: `arch.dim` -> 1024."""
        flat = flatten({key: self.model[key] for key in MEANING if key in self.model})
        return {key: value for key, value in flat.items() if key not in FREE}


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A file of weights: what a model loads, and for a training checkpoint the rest of its run."""

    path: Path
    weights: dict[str, Tensor]
    run: dict[str, Any]  # optimizer_state_dict, update, ...; of bare weights the average alone
    which: str = "raw"  # of its weights those are: raw or ema

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
        average = self.run.get(AVERAGE, {})
        return int(self.run.get("update", self.run.get("step", average.get("step", 0))))

    @property
    def card(self) -> ModelCard | None:
        """What the file says about its weights; None for files that say nothing."""
        if not {"model", "vocabulary"} <= self.run.keys():
            return None
        return ModelCard(model=self.run["model"], vocabulary=self.run["vocabulary"])

    def using(self, which: str | None = None) -> Checkpoint:
        """The same file with its `raw` weights or their average, `ema`; None: those that it recommends itself.

        A file that recommends none speaks with its average, as in F5-TTS.

        Raises ValueError when the file has no such weights.
        """
        which = which or self.run.get("recommended", "ema" if AVERAGE in self.run else "raw")
        key, other = (RAW, "ema") if which == "raw" else (AVERAGE, "raw")
        if key not in self.run:
            raise ValueError(f"{self.path} holds no {which} weights; it has the {other} ones")
        return replace(self, weights=plain_weights(self.run[key]), which=which)

    def alone(self) -> Checkpoint:
        """Its weights and what they mean, without the run that made them: a new run starts from them."""
        return replace(self, run={key: self.run[key] for key in ABOUT if key in self.run})


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
        payload = {AVERAGE: payload, **read_header(path, payload)}
    run = payload if isinstance(payload, dict) else {}
    weights, which = (run[RAW], "raw") if run.get(RAW) else (run.get(AVERAGE), "ema")
    if not isinstance(weights, dict):
        raise ValueError(f"{path} holds neither {RAW} nor {AVERAGE}")
    check_run(run, path)
    return Checkpoint(path=path, weights=plain_weights(weights), which=which, run=run)


def check_run(run: Mapping[Any, Any], path: Path) -> None:
    """See that what a checkpoint says is of the kinds that are read from it; ValueError names the first key."""
    for key, kind in KINDS.items():
        if not isinstance(run.get(key, kind()), kind):
            raise ValueError(
                f"{path} is no checkpoint: {key} is {type(run[key]).__name__}, where {kind.__name__} is due"
            )
    if not all(isinstance(symbol, str) for symbol in run.get("vocabulary", [])):
        raise ValueError(f"{path} is no checkpoint: vocabulary holds more than text")
    if run.get("recommended", "raw") not in ("raw", "ema"):
        raise ValueError(f"{path} recommends {run['recommended']!r}, which is neither raw nor ema")
    for weights in (run.get(RAW, {}), run.get(AVERAGE, {})):
        check_tensors(weights, path)
        if not all(value.numel() == 1 for name, value in weights.items() if name == "step"):
            raise ValueError(f"{path} is no checkpoint: its step is no single number")


def plain_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in the model, single precision: without EMA prefix, counters and old mel buffers."""
    named = {name.removeprefix(EMA_PREFIX): value for name, value in weights.items()}
    kept = {name: value for name, value in named.items() if not name.startswith(NOT_WEIGHTS)}
    return {name: value.float() if value.is_floating_point() else value for name, value in kept.items()}


def load_weights(model: CFM, checkpoint: Checkpoint, say: Callable[[str], None] = print) -> None:
    """Load weights strictly, as `matched_weights` gives them; adapters beside them are set to change nothing."""
    model.load_state_dict(unchanged(model, matched_weights(model, checkpoint, say)))


def matched_weights(model: CFM, checkpoint: Checkpoint, say: Callable[[str], None] = print) -> dict[str, Tensor]:
    """A checkpoint's weights for every tensor of the model, plain; only a Gaussian head may be missing or left over,
    and that is said.

    Raises ValueError that names the first keys that differ, with both shapes, and for a tensor that is not finite.
    """
    weights, own = dict(checkpoint.weights), merged_weights(model)
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise ValueError(f"{checkpoint.path} holds numbers that are NaN or infinite, in {', '.join(broken[:3])}")
    if model.is_gaussian and not checkpoint.has_head:
        weights |= {name: value for name, value in own.items() if name.startswith(HEAD)}
        say(f"{checkpoint.path} has no Gaussian head: it starts at model.ln_sigma_init")
    elif checkpoint.has_head and not model.is_gaussian:
        weights = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
        say(f"{checkpoint.path} has a Gaussian head, which this deterministic model leaves out")
    wrong = differences(own, weights)
    if wrong:
        shown, cause = "; ".join(wrong[:3]), likely_cause(own, weights, wrong)
        raise ValueError(f"{checkpoint.path} does not fit this model ({len(wrong)} tensors differ; {shown}): {cause}")
    return weights


def differences(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """The tensors that a model and a file do not share by name and shape, each with both shapes."""
    names = sorted(own.keys() | weights.keys())
    shapes = {name: (shape_of(own.get(name)), shape_of(weights.get(name))) for name in names}
    return [f"{name}: {here} here, {there} in the file" for name, (here, there) in shapes.items() if here != there]


def likely_cause(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], wrong: list[str]) -> str:
    """Why weights do not fit: another number of symbols where nothing else differs, else another config."""
    if len(wrong) == 1 and wrong[0].startswith(SYMBOLS) and SYMBOLS in weights:
        here, there = num_symbols(own), num_symbols(weights)
        return f"its vocabulary has {there} symbols, this run's {here}; set model.tokenizer_path (to speak: -v)"
    return "it was trained with another model.arch, model.mel_spec or vocabulary; choose its config (-cn, to speak -m)"


def check_card(checkpoint: Checkpoint, card: ModelCard, say: Callable[[str], None] = print) -> None:
    """See that weights mean in this run what they meant in the run that made them: `card` is this run's.

    Keys that differ are said one by one. Raises ValueError for another vocabulary: every text would be garbled.
    """
    theirs = checkpoint.card
    if theirs is None:
        say(f"{checkpoint.path} does not say which model keys and vocabulary it was made with: this run's are assumed")
        return
    if theirs.vocabulary != card.vocabulary:
        differ = first_difference(card.vocabulary, theirs.vocabulary)
        raise ValueError(f"{checkpoint.path} has another vocabulary: {differ}")
    was, now = theirs.meaning(), card.meaning()
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            say(f"{checkpoint.path} was made with model.{key}={was.get(key)}, this run has {now.get(key)}")


def num_symbols(weights: Mapping[str, Tensor]) -> int:
    """The size of the vocabulary that weights index; one row of the embedding is filler."""
    return len(weights[SYMBOLS]) - 1 if SYMBOLS in weights else 0


def first_difference(here: Sequence[str], there: Sequence[str]) -> str:
    """Where two vocabularies part, and how to get the other one."""
    line = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), min(len(here), len(there)))
    symbols = [repr(symbols[line]) if line < len(symbols) else "nothing" for symbols in (here, there)]
    return (
        f"{len(here)} symbols here, {len(there)} there, and line {line + 1} is {symbols[0]} here, {symbols[1]} there; "
        "set model.tokenizer_path (to speak: -v) to the vocabulary it was trained with"
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
    replace_file(path, lambda part: torch.save(payload, part))


def export_weights(checkpoint: Checkpoint, path: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint's weights bare, as published models have them; what it says of them goes into the header."""
    tensors = published_tensors(checkpoint.weights, dtype) | {"step": torch.tensor(checkpoint.update)}
    card = {} if checkpoint.card is None else asdict(checkpoint.card)
    header = {key: json.dumps(value) for key, value in card.items()}
    header[CHECKSUM] = checksum(tensors, header)
    replace_file(path, lambda part: save_file(tensors, part, metadata=header))


def read_header(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What an exported file says of its weights; ValueError when it cannot be read, or they are not as exported."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    said = header.pop(CHECKSUM, None)  # of published files nobody says one
    if said is not None and said != checksum(tensors, header):
        raise ValueError(f"{path} is damaged, its weights have another checksum than its header says: export it again")
    odd = sorted(header.keys() - {"model", "vocabulary"}) if "vocabulary" in header else []
    if odd:  # perhaps the checksum, by a damaged name
        raise ValueError(f"{path} has a damaged header: it holds {odd[0]!r}, which no export writes; export it again")
    try:
        return {key: json.loads(header[key]) for key in ("model", "vocabulary") if key in header}
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} has a damaged header ({error}): export it again") from error


def published_tensors(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Names as published files have them: prefix `ema_model.`, an EMA's counters, no Gaussian head.

    Rotary frequencies stay in single precision: rounded, they would shift far positions.
    """
    kept = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
    tensors = {
        EMA_PREFIX + name: (value if name.endswith("inv_freq") else value.to(dtype)).contiguous()
        for name, value in kept.items()
    }
    return tensors | {"initted": torch.tensor(True), "step": torch.tensor(0)}
