"""What a reward server and its clients say to each other: clips and scores as bytes, and who may ask."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from f5_tts.types import RewardInput

PROTOCOL = 2  # both sides must have the same
TOKEN = "F5TTS_REWARD_TOKEN"  # the environment variable with the secret that a server and its clients share
WAVES = ("audio", "lead", "reference_audio", "target_audio")  # of a RewardInput, as tensors
PLAIN = {"sample_rate": int, "text": str, "language": str, "reference_text": str, "row": dict}  # the rest, as JSON


class WorkerError(OSError):
    """A reward of another process gives no scores; why, in one sentence, and no reason to ask again."""


@dataclass(frozen=True)
class Address:
    """Where a server listens, and the secret it wants to hear; "" for none."""

    url: str
    token: str = field(repr=False)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host of that name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shared_token() -> str:
    """The secret of the environment, "" for none; ValueError, which does not tell it, where no header can carry it."""
    token = os.environ.get(TOKEN, "").strip()
    if not (token.isascii() and token.isprintable()):
        raise ValueError(f"{TOKEN} in the environment is not of printable ASCII alone, as it must be; take another")
    return token


def sentence(text: bytes) -> str:
    """The beginning of a server's answer, on one line."""
    return " ".join(text[:1000].decode(errors="replace").split())


def json_object(text: bytes) -> dict[str, Any]:
    """What a JSON object holds; nothing where the text is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def pack_inputs(inputs: Sequence[RewardInput], call: str) -> bytes:
    """Clips as the body of a request; `call` names it. Waveforms travel as float32, values of a row that JSON does not
    know as their `str`."""
    waves = {
        f"{place}.{name}": getattr(item, name)
        for place, item in enumerate(inputs)
        for name in WAVES
        if getattr(item, name) is not None
    }
    plain = [{name: getattr(item, name) for name in PLAIN} | {"row": dict(item.row)} for item in inputs]
    return pack({"call": call, "inputs": plain}, waves)


def unpack_inputs(body: bytes) -> tuple[str, list[RewardInput]]:
    """Name and clips of a request; ValueError where it is none."""
    about, waves = unpack(body)
    call, items = about.get("call"), about.get("inputs")
    if not isinstance(call, str) or not isinstance(items, list):
        raise ValueError("a request needs its name (call) and a list of inputs")
    return call, [unpack_input(place, item, waves) for place, item in enumerate(items)]


def unpack_input(place: int, item: Any, waves: Mapping[str, Tensor]) -> RewardInput:
    plain = item if isinstance(item, dict) else {}
    heard = {name: waves[f"{place}.{name}"] for name in WAVES if f"{place}.{name}" in waves}
    wrong = [name for name, kind in PLAIN.items() if not isinstance(plain.get(name), kind)]
    wrong += [name for name, wave in heard.items() if wave.ndim != 1 or wave.dtype != torch.float32]
    if wrong or plain.keys() != PLAIN.keys() or "audio" not in heard:
        raise ValueError(f"input {place} needs audio and exactly {', '.join(PLAIN)}; wrong or missing: {wrong}")
    values: dict[str, Any] = {**plain, **heard}
    return RewardInput(**values)


def pack_scores(scores: Mapping[str, Tensor | list[str]], call: str) -> bytes:
    """Scores by component, as the answer to a request of that name; texts travel as JSON."""
    named = {name: values if isinstance(values, list) else None for name, values in scores.items()}
    numbers = {str(place): values for place, values in enumerate(scores.values()) if isinstance(values, Tensor)}
    return pack({"call": call, "components": named}, numbers)


def unpack_scores(body: bytes, call: str) -> dict[str, Tensor | list[str]]:
    """The scores that answer the request of that name; ValueError for anything else."""
    about, numbers = unpack(body)
    if about.get("call") != call:
        raise ValueError("the answer is to another request")
    components = about.get("components")
    named = list(components.items()) if isinstance(components, dict) else []
    places = {str(place) for place, (_, texts) in enumerate(named) if not isinstance(texts, list)}
    if not named or numbers.keys() != places:
        raise ValueError("the answer does not hold the scores that it names")
    return {
        name: texts if isinstance(texts, list) else numbers[str(place)] for place, (name, texts) in enumerate(named)
    }


def pack(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    text = np.frombuffer(json.dumps(about, default=str).encode(), np.uint8)
    arrays = {name: tensor.detach().to("cpu", torch.float32).contiguous().numpy() for name, tensor in tensors.items()}
    return save({"about": text, **arrays})


def unpack(body: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pack` was given; ValueError for bytes that it did not make."""
    try:
        arrays = load(body)
        about = json.loads(arrays.pop("about").tobytes())
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"the bytes cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(about, dict):
        raise ValueError(f"the bytes cannot be read: about is {type(about).__name__}")
    return about, {name: torch.tensor(array) for name, array in arrays.items()}
