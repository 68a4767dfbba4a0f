"""What several rooms' tests share: the golden files, and models with the weights in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM

GOLDENS = Path(__file__).parent / "goldens"


@cache
def read_tensors(name: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{name}.safetensors")


@cache
def read_table(name: str) -> dict[str, Any]:
    return json.loads((GOLDENS / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def tensors() -> Callable[[str], dict[str, Tensor]]:
    """The tensors of goldens/<name>.safetensors, by their keys; shared, so not to be changed."""
    return read_tensors


@pytest.fixture(scope="session")
def table() -> Callable[[str], dict[str, Any]]:
    """What goldens/<name>.json holds; shared, so not to be changed."""
    return read_table


@pytest.fixture(scope="session")
def golden_weights() -> Callable[[str], dict[str, Tensor]]:
    """The weights of a golden model (dit_v1, dit_avgup, or dit with its Gaussian head), named as its DiT names them."""

    def weights(name: str) -> dict[str, Tensor]:
        file, prefix = ("g2_gaussian_head", "dit.w.") if name == "dit" else (f"g2_{name}", "w.")
        named = {key.removeprefix(prefix): value for key, value in read_tensors(file).items() if key.startswith(prefix)}
        return {key: value.float() for key, value in named.items()}

    return weights


@pytest.fixture(scope="session")
def golden_model(golden_weights) -> Callable[[str], CFM]:
    """A new model with the weights of a golden one (dit_v1, dit_avgup, or dit with its Gaussian head)."""

    def model(name: str) -> CFM:
        transformer = DiT(**sizes(name), gaussian=name == "dit")
        cfm = CFM(transformer)  # sets the Gaussian head, so the weights come after it
        transformer.load_state_dict(golden_weights(name))
        return cfm

    return model


def sizes(name: str) -> dict[str, Any]:
    """The constructor arguments of a golden model's DiT."""
    found: dict[str, Any] = read_table("g2_gaussian_head" if name == "dit" else "g2_configs")[name]["kwargs"]
    names = {"text_num_embeds": "num_tokens", "text_embedding_average_upsampling": "average_upsampling"}
    return {names.get(key, key): value for key, value in found.items() if key != "text_mask_padding"}
