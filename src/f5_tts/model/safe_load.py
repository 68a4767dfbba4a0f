"""Safe reading of weights saved by torch.save or safetensors; damaged files and pickled code are refused."""

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
FOLDER_FLAG = 0x10  # the folder bit of a zip record's attributes
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
}  # dtypes of weights
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
)  # errors of torch, zipfile and safetensors for damaged files and unsafe pickles


def read_file(path: Path, mapped: bool = False) -> Any:
    """Read a file of torch.save or safetensors, which its first bytes tell apart, on the CPU; no code from it runs.

    All checksums of a torch.save archive are verified, which torch itself does not do. This takes about a second per 2
    GB. With `mapped` the tensors of such an archive stay in the file until they are read, so that what a caller leaves
    out (averages, optimizer states) takes no memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        if is_safetensors(path):
            return load_file(path)
        if zipfile.is_zipfile(path):
            verify_records(path)
            if mapped and path.suffix != ".safetensors":
                return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
            with path.open("rb") as stream:  # by its name, torch would take a file for safetensors
                return torch.load(stream, map_location="cpu", weights_only=True)
        raise RuntimeError("neither safetensors nor an archive in the format of torch.save since PyTorch 1.6")
    except LOAD_ERRORS as error:
        is_code = isinstance(error, pickle.UnpicklingError)
        reason = "objects that cannot be loaded without running code" if is_code else str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as a checkpoint: damaged, or not only weights ({reason})") from error


def is_safetensors(path: Path) -> bool:
    """Check by its first bytes, whatever its name is, whether a file is in the format of safetensors."""
    with path.open("rb") as stream:
        start = stream.read(9)  # the length of the header, which is JSON
    return start[8:] == b"{" and not start.startswith(b"PK")


def verify_records(path: Path) -> None:
    """Verify the checksums of all records of an archive; an archive without checksums has zeros there.

    Raises:
        BadZipFile: a checksum is wrong.
        RuntimeError: a record could exhaust the memory or leave it uninitialized: records that unpack to more than the
            file's size, a bytearray (which may declare any length), a folder, or two records of one name.
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
    """Read a bare state dict; raise the errors of `read_file`, and ValueError for anything but named tensors."""
    tensors = read_file(path)
    check_tensors(tensors, path)
    return tensors


def check_tensors(tensors: Any, path: Path) -> None:
    """Raise ValueError unless this is a state dict of dense tensors whose values are all in the file."""
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise ValueError(f"{path} is not a state dict: it should hold tensors by name and nothing else")
    if invalid := [name for name, value in tensors.items() if not is_dense(value)]:
        raise ValueError(
            f"{path} is not a state dict: {invalid[0]} is not a dense tensor with all its values in the file"
        )


def is_dense(value: Tensor) -> bool:
    """Check whether a tensor is dense, on the CPU, of an allowed dtype, and stores every value (not expanded)."""
    is_allowed = value.dtype in ALLOWED_DTYPES and value.layout == torch.strided and value.device.type == "cpu"
    return is_allowed and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def checksum(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Compute a CRC-32 of the tensors' names, types, shapes and values, and of the header's entries."""
    crc = zlib.crc32(json.dumps(sorted(header.items())).encode())
    for name, value in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {list(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.contiguous().flatten().view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
