"""A file of torch.save or safetensors -> what it holds, on the CPU; damage and code are refused."""

from __future__ import annotations

import json
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

READ_SIZE = 2**20  # bytes read at a time
FOLDER_FLAG = 0x10  # in the attributes of a zip's record
ALLOWED_DTYPES = {
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
}  # what weights may be made of
LOAD_ERRORS = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    MemoryError,
    ArithmeticError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    SafetensorError,
)  # what torch, zipfile and safetensors make of damaged files and of strangers' pickles


def read_file(path: Path) -> Any:
    """What torch.save or safetensors wrote, on the CPU; no code from the file runs.

    Of what torch.save wrote every checksum is compared, which torch itself passes over: about a second per 2 GB.

    Raises FileNotFoundError, or ValueError when the file is damaged or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):
            verify_records(path)
            return torch.load(path, map_location="cpu", weights_only=True)
        raise RuntimeError("no archive as torch.save writes it since PyTorch 1.6")
    except LOAD_ERRORS as error:
        is_code = isinstance(error, pickle.UnpicklingError)
        reason = "objects that only code could restore" if is_code else str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as a checkpoint: damaged, or not only weights ({reason})") from error


def verify_records(path: Path) -> None:
    """See that every record of an archive has its checksum; an archive written without them has zeros there.

    Raises BadZipFile for another one, and RuntimeError for a folder, for which torch takes memory and fills nothing in,
    and for what would fill the memory: records that unpack to more than the file is, and a bytearray, which needs no
    bytes to be of any length.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise RuntimeError("its records unpack to more than the file is")
        if len({record.filename for record in records}) < len(records):
            raise RuntimeError("two of its records have one name")
        for record in records:
            if record.is_dir() or record.external_attr & FOLDER_FLAG:
                raise RuntimeError(f"its record {record.filename} is marked as a folder")
            record.CRC = record.CRC or None  # pyright: ignore[reportAttributeAccessIssue]
            with archive.open(record) as stream:
                if record.filename.endswith("data.pkl") and b"bytearray" in stream.read():
                    raise RuntimeError("it holds a bytearray")
                while stream.read(READ_SIZE):
                    pass


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a bare state dict; raises what read_file raises, and ValueError for a file that holds no such."""
    tensors = read_file(path)
    check_tensors(tensors, path)
    return tensors


def check_tensors(tensors: Any, path: Path) -> None:
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise ValueError(f"{path} is no state dict: it should hold tensors by their names and nothing else")
    if invalid := [name for name, value in tensors.items() if not is_dense(value)]:
        raise ValueError(f"{path} is no state dict: {invalid[0]} is no plain tensor, with all its values in the file")


def is_dense(value: Tensor) -> bool:
    """Whether a tensor is of numbers that weights are made of, and the file has them all: not one number many times."""
    is_allowed = value.dtype in ALLOWED_DTYPES and value.layout == torch.strided and value.device.type == "cpu"
    return is_allowed and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def checksum(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """A CRC-32 of names, types, shapes and values, and of what the header says."""
    crc = zlib.crc32(json.dumps(sorted(header.items())).encode())
    for name, value in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {list(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.contiguous().flatten().view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
