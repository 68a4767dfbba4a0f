"""Protocol between a reward server and its clients: encoding of clips and scores, and the shared token."""

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

from f5_tts.rewards.flags import TOKEN
from f5_tts.types import RewardInput

PROTOCOL = 2  # version; server and client must have the same
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
}  # other fields, as JSON
LOCAL_FIELDS = ("mel", "mel_spec")  # of losses, whose gradients no process can send


class WorkerError(OSError):
    """Reward provider in another process that cannot give scores, even after a retry; the message is one sentence."""


@dataclass(frozen=True)
class Address:
    """URL of a server and its token; "" for none."""

    url: str
    token: str = field(repr=False)


def is_loopback(host: str) -> bool:
    """Check whether a host name or address refers to this computer only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shared_token() -> str:
    """Return the token of the environment, "" if there is none.

    Raises ValueError, without showing the token, if it cannot be sent in an HTTP header.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not (token.isascii() and token.isprintable()):
        raise ValueError(f"{TOKEN} in the environment must have only printable ASCII characters; choose another")
    return token


def one_line(text: bytes) -> str:
    """Return the start of a server's response on one line."""
    return " ".join(text[:1000].decode(errors="replace").split())


def json_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object; return {} if the text is none."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def encode_inputs(inputs: Sequence[RewardInput], request_id: str) -> bytes:
    """Encode clips as the body of a request with the id `call`.

    Waveforms are sent as float32. Values of a row that JSON does not support are sent as their `str`.
    """
    tensors = {
        f"{index}.{name}": getattr(item, field)
        for index, item in enumerate(inputs)
        for name, field in TENSOR_FIELDS.items()
        if getattr(item, field) is not None
    }
    json_fields = [{name: getattr(item, name) for name in JSON_FIELDS} | {"row": dict(item.row)} for item in inputs]
    return encode({"call": request_id, "inputs": json_fields}, tensors)


def decode_inputs(body: bytes) -> tuple[str, list[RewardInput]]:
    """Decode the id and the clips of a request; raise ValueError if it is invalid."""
    header, tensors = decode(body)
    request_id, items = header.get("call"), header.get("inputs")
    if not isinstance(request_id, str) or not isinstance(items, list):
        raise ValueError("a request needs its name (call) and a list of inputs")
    return request_id, [decode_input(index, item, tensors) for index, item in enumerate(items)]


def decode_input(index: int, item: Any, tensors: Mapping[str, Tensor]) -> RewardInput:
    """Build one RewardInput from its JSON fields and its tensors; raise ValueError if one is missing or invalid."""
    json_fields = item if isinstance(item, dict) else {}
    item_tensors = {name: tensors[f"{index}.{name}"] for name in TENSOR_FIELDS if f"{index}.{name}" in tensors}
    invalid = [name for name, kind in JSON_FIELDS.items() if not isinstance(json_fields.get(name), kind)]
    invalid += [name for name, wave in item_tensors.items() if wave.ndim != 1 or wave.dtype != torch.float32]
    if invalid or json_fields.keys() != JSON_FIELDS.keys() or "audio" not in item_tensors:
        raise ValueError(f"input {index} needs audio and exactly {', '.join(JSON_FIELDS)}; wrong or missing: {invalid}")
    values: dict[str, Any] = {**json_fields, **{TENSOR_FIELDS[name]: wave for name, wave in item_tensors.items()}}
    return RewardInput(**values)


def encode_scores(scores: Mapping[str, Tensor | list[str]], request_id: str) -> bytes:
    """Encode scores by component as the response to the request with the id `call`; texts are sent as JSON."""
    named = {name: values if isinstance(values, list) else None for name, values in scores.items()}
    numbers = {str(index): values for index, values in enumerate(scores.values()) if isinstance(values, Tensor)}
    return encode({"call": request_id, "components": named}, numbers)


def decode_scores(body: bytes, request_id: str) -> dict[str, Tensor | list[str]]:
    """Decode the scores of the response to the request with that id; raise ValueError if it is invalid."""
    header, numbers = decode(body)
    if header.get("call") != request_id:
        raise ValueError("the response belongs to another request")
    components = header.get("components")
    named = list(components.items()) if isinstance(components, dict) else []
    indices = {str(index) for index, (_, texts) in enumerate(named) if not isinstance(texts, list)}
    if not named or numbers.keys() != indices:
        raise ValueError("the scores of the response do not match the components that it names")
    return {
        name: texts if isinstance(texts, list) else numbers[str(index)] for index, (name, texts) in enumerate(named)
    }


def encode(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Encode JSON data and tensors as one safetensors file."""
    text = np.frombuffer(json.dumps(header, default=str).encode(), np.uint8)
    arrays = {name: tensor.detach().to("cpu", torch.float32).contiguous().numpy() for name, tensor in tensors.items()}
    return save({"about": text, **arrays})


def decode(body: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Decode the JSON data and tensors of such a file; raise ValueError if the bytes are invalid."""
    try:
        arrays = load(body)
        header = json.loads(arrays.pop("about").tobytes())
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"the bytes cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"the bytes cannot be read: about is {type(header).__name__}")
    return header, {name: torch.tensor(array) for name, array in arrays.items()}
