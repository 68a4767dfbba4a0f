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
TENSOR_FIELDS = {
    "audio": "audio",
    "lead": "prompt_audio",
    "reference_audio": "reference_audio",
    "target_audio": "target_audio",
}  # name on the wire -> field of a RewardInput, as tensors
JSON_FIELDS = {
    "sample_rate": int,
    "text": str,
    "language": str,
    "reference_text": str,
    "row": dict,
}  # the rest, as JSON


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


def one_line(text: bytes) -> str:
    """The beginning of a server's answer, on one line."""
    return " ".join(text[:1000].decode(errors="replace").split())


def json_object(text: bytes) -> dict[str, Any]:
    """What a JSON object holds; nothing where the text is none."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def encode_inputs(inputs: Sequence[RewardInput], request_id: str) -> bytes:
    """Clips as the body of a request; `call` names it. Waveforms travel as float32, values of a row that JSON does not
    know as their `str`."""
    tensors = {
        f"{index}.{name}": getattr(item, field)
        for index, item in enumerate(inputs)
        for name, field in TENSOR_FIELDS.items()
        if getattr(item, field) is not None
    }
    json_fields = [{name: getattr(item, name) for name in JSON_FIELDS} | {"row": dict(item.row)} for item in inputs]
    return encode({"call": request_id, "inputs": json_fields}, tensors)


def decode_inputs(body: bytes) -> tuple[str, list[RewardInput]]:
    """Name and clips of a request; ValueError where it is none."""
    header, tensors = decode(body)
    request_id, items = header.get("call"), header.get("inputs")
    if not isinstance(request_id, str) or not isinstance(items, list):
        raise ValueError("a request needs its name (call) and a list of inputs")
    return request_id, [decode_input(index, item, tensors) for index, item in enumerate(items)]


def decode_input(index: int, item: Any, tensors: Mapping[str, Tensor]) -> RewardInput:
    json_fields = item if isinstance(item, dict) else {}
    item_tensors = {name: tensors[f"{index}.{name}"] for name in TENSOR_FIELDS if f"{index}.{name}" in tensors}
    invalid = [name for name, kind in JSON_FIELDS.items() if not isinstance(json_fields.get(name), kind)]
    invalid += [name for name, wave in item_tensors.items() if wave.ndim != 1 or wave.dtype != torch.float32]
    if invalid or json_fields.keys() != JSON_FIELDS.keys() or "audio" not in item_tensors:
        raise ValueError(f"input {index} needs audio and exactly {', '.join(JSON_FIELDS)}; wrong or missing: {invalid}")
    values: dict[str, Any] = {**json_fields, **{TENSOR_FIELDS[name]: wave for name, wave in item_tensors.items()}}
    return RewardInput(**values)


def encode_scores(scores: Mapping[str, Tensor | list[str]], request_id: str) -> bytes:
    """Scores by component, as the answer to a request of that name; texts travel as JSON."""
    named = {name: values if isinstance(values, list) else None for name, values in scores.items()}
    numbers = {str(index): values for index, values in enumerate(scores.values()) if isinstance(values, Tensor)}
    return encode({"call": request_id, "components": named}, numbers)


def decode_scores(body: bytes, request_id: str) -> dict[str, Tensor | list[str]]:
    """The scores that answer the request of that name; ValueError for anything else."""
    header, numbers = decode(body)
    if header.get("call") != request_id:
        raise ValueError("the answer is to another request")
    components = header.get("components")
    named = list(components.items()) if isinstance(components, dict) else []
    indices = {str(index) for index, (_, texts) in enumerate(named) if not isinstance(texts, list)}
    if not named or numbers.keys() != indices:
        raise ValueError("the answer does not hold the scores that it names")
    return {
        name: texts if isinstance(texts, list) else numbers[str(index)] for index, (name, texts) in enumerate(named)
    }


def encode(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    text = np.frombuffer(json.dumps(header, default=str).encode(), np.uint8)
    arrays = {name: tensor.detach().to("cpu", torch.float32).contiguous().numpy() for name, tensor in tensors.items()}
    return save({"about": text, **arrays})


def decode(body: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pack` was given; ValueError for bytes that it did not make."""
    try:
        arrays = load(body)
        header = json.loads(arrays.pop("about").tobytes())
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"the bytes cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"the bytes cannot be read: about is {type(header).__name__}")
    return header, {name: torch.tensor(array) for name, array in arrays.items()}
