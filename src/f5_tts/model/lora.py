"""LoRA: a low-rank update beside frozen layers, W x + (alpha / rank) B A x (Hu et al. 2021, arXiv 2106.09685).

Only this module uses peft. Checkpoints hold merged weights (`merged_weights`) under the published names, so their
readers need no LoRA. Merging rounds, so a resumed run restores the frozen weights and the adapters themselves
(`load_with_adapters`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from f5_tts.config.checks import as_override
from f5_tts.config.schema import LoraConfig
from f5_tts.extras import install_hint
from f5_tts.model.cfm import CFM
from f5_tts.model.fsdp import shard_numel, shard_numels

BASE_KEY, LORA_KEY, LORA_B_KEY = (
    ".base_layer.",
    ".lora_",
    ".lora_B.",
)  # parts of peft's names: W, A or B, and B
ADAPTER = "default"
OLD_TARGETS = {"ff.ff.0.0": "ff.0.0", "ff.ff.2": "ff.2"}  # names of the same layers in earlier defaults


def add_adapters(model: CFM, lora: LoraConfig, log: Callable[[str], None] = print) -> None:
    """Add adapters and freeze everything but them and the Gaussian head; lora.rank=0 changes nothing.

    B starts at zero, so the output does not change at first.

    Raises:
        ValueError: an entry of lora.target_modules matches no layer.
        ImportError: peft is not installed.
    """
    if lora.rank == 0:
        return
    head, layers = model.transformer.proj_out_ln_sig, target_layers(model, lora.target_modules)
    model.requires_grad_(False)
    inject(model, lora, layers)
    if head is not None:
        head.requires_grad_(True)
    trained, total = (
        sum(value.numel() for value in parameters) for parameters in (trainable_parameters(model), model.parameters())
    )
    log(f"LoRA of rank {lora.rank} on {len(layers)} layers: {trained:,} of {total:,} weights are trained")


def inject(model: CFM, lora: LoraConfig, layers: list[str]) -> None:
    """Add adapters to the named layers in place and freeze all other weights; raise ImportError without peft."""
    try:
        import peft
    except ImportError as error:
        raise ImportError(f"lora.rank above 0 needs peft: {install_hint('peft')}, or set lora.rank=0") from error
    alpha: Any = lora.alpha  # peft accepts any number but declares int
    settings = peft.LoraConfig(r=lora.rank, lora_alpha=alpha, lora_dropout=lora.dropout, target_modules=layers)
    peft.inject_adapter_in_model(settings, model, ADAPTER)


def trained_sizes(model: CFM, lora: LoraConfig, world_size: int = 1) -> list[int]:
    """Return the sizes of the tensors to train, in numbers, for a model that has no adapters yet.

    With several ranks these are the sizes of one rank's shards.
    """
    head = model.transformer.proj_out_ln_sig
    module = model if lora.rank == 0 else head
    return adapter_sizes(model, lora, world_size) + (shard_numels(module, world_size) if module else [])


def adapter_sizes(model: CFM, lora: LoraConfig, world_size: int = 1) -> list[int]:
    """Return the sizes of A (rank x in) and B (out x rank) of each target layer, or of their shards, in numbers."""
    named = dict(model.named_modules())
    layers = [named[name] for name in target_layers(model, lora.target_modules)] if lora.rank else []
    widths = [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)]
    return [
        shard_numel(shape, world_size)
        for in_features, out_features in widths
        for shape in ((lora.rank, in_features), (out_features, lora.rank))
    ]


def target_layers(model: CFM, targets: list[str]) -> list[str]:
    """List the linear layers whose names end with a target, without the head; raise ValueError if one has none."""
    head = model.transformer.proj_out_ln_sig
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer is not head]
    for target in targets:
        if not any(ends_with(name, target) for name in names):
            endings = sorted({re.sub(r"^.*\.\d+\.(?=[a-z])", "", name) for name in names})
            raise ValueError(
                f"lora.target_modules has {target}, and no linear layer that can have an adapter has a name that ends "
                f"like that; available: {', '.join(endings)}"
            )
    return [name for name in names if any(ends_with(name, target) for target in targets)]


def ends_with(name: str, target: str) -> bool:
    """Check whether a dotted name ends with the target's parts."""
    return f".{name}".endswith(f".{target}")


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """List the parameters that require gradients."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def merged_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a model, or of a module that holds one, with all adapters merged into W."""
    state = module.state_dict()
    merged = {base_name(name): value for name, value in state.items() if LORA_KEY not in name}
    for name, layer in adapted_layers(module):
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + layer.get_delta_weight(ADAPTER)
    return merged


def adapted_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """List the layers that peft has wrapped, with their names."""
    return [(name, layer) for name, layer in module.named_modules() if hasattr(layer, "base_layer")]


def adapter_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return A and B of every adapter; nothing for a model without adapters."""
    return {name: value for name, value in module.state_dict().items() if LORA_KEY in name}


def with_zero_adapters(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict, by the module's own names, with these weights and adapters that have no effect (B = 0)."""
    current = module.state_dict()
    state = {name: value if LORA_KEY in name else weights[base_name(name)] for name, value in current.items()}
    return {name: torch.zeros_like(value) if LORA_B_KEY in name else value for name, value in state.items()}


def load_with_adapters(module: nn.Module, merged: Mapping[str, Tensor], adapters: Mapping[str, Tensor]) -> None:
    """Restore what `merged_weights` and `adapter_weights` returned, bit for bit.

    The frozen weights under adapters must already be the original ones: merged weights would count the update twice.
    """
    base_weights = {name: value for name, value in module.state_dict().items() if BASE_KEY in name}
    module.load_state_dict({**with_zero_adapters(module, merged), **base_weights, **adapters})


def lora_settings(lora: LoraConfig | None) -> dict[str, Any]:
    """Return the settings that must not change when a run resumes; rank 0 without LoRA."""
    if lora is None or lora.rank == 0:
        return {"rank": 0}
    return {"rank": lora.rank, "alpha": lora.alpha, "target_modules": current_targets(lora.target_modules)}


def current_targets(targets: Sequence[str]) -> list[str]:
    """Return the names of layers in order, earlier ones by those of today."""
    return sorted(OLD_TARGETS.get(target, target) for target in targets)


def check_same_lora(path: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise ValueError if a resumed run has other LoRA settings than its checkpoint."""
    if "target_modules" in saved:
        saved = {**saved, "target_modules": current_targets(saved["target_modules"])}
    for key, value in saved.items():
        if current.get(key, value) != value:
            raise ValueError(
                f"{path} was trained with lora.{key}={as_override(value)}, this run has {as_override(current[key])}: "
                "set it to "
                f"{as_override(value)}, or start from the weights of stage 1 in another ckpts.save_dir"
            )


def base_name(name: str) -> str:
    """Return the published name of a weight."""
    return name.replace(BASE_KEY, ".")
