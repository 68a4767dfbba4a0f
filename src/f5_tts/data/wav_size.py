"""Size of a WAV file's samples: what its header says, and what is there; and whether an MP3 file says its length."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO
from pathlib import Path

UNKNOWN_FROM = 0x7FFF_0000  # bytes; programs that write to a pipe do not know the size, and say 2^31 or 2^32 less a bit
MAX_TAG_AT = 64  # bytes from the start of an MP3 file's first frame to the end of what says its length


@dataclass(frozen=True, slots=True)
class WavSize:
    """Bytes of samples by the header of a WAV file, and those in the file."""

    declared: int
    present: int
    bytes_per_second: int

    @property
    def missing_s(self) -> float:
        """Return the seconds that the header declares and the file lacks; 0 where it does not know them."""
        if not 0 < self.declared < UNKNOWN_FROM or not self.bytes_per_second:
            return 0.0
        return max(0, self.declared - self.present) / self.bytes_per_second


def wav_size(file: BytesIO | Path) -> WavSize | None:
    """Read the size of the samples of a file; None for one that is no WAV file."""
    with opened(file) as stream:
        return size_of_stream(stream)


def states_length(file: BytesIO | Path) -> bool:
    """Check whether an MP3 file says in its first frame how many frames it has; else its length is an estimate."""
    with opened(file) as stream:
        start = stream.read(10)
        sizes = zip(start[6:], (21, 14, 7, 0), strict=False)  # of an ID3 tag, with seven bits in each byte
        stream.seek(10 + sum(bits << shift for bits, shift in sizes) if start.startswith(b"ID3") else 0)
        frame = stream.read(MAX_TAG_AT)
    tag = re.search(rb"(Xing|Info)...(.)", frame, re.DOTALL)
    return tag is not None and bool(tag[2][0] & 1)


@contextmanager
def opened(file: BytesIO | Path) -> Iterator[BufferedIOBase]:
    """Open a file, or use bytes and go back to their start."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            yield stream
    else:
        yield file
        file.seek(0)


def size_of_stream(stream: BufferedIOBase) -> WavSize | None:
    """Read the size of the samples of a stream."""
    start, bytes_per_second = stream.read(12), 0
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        return None
    while len(head := stream.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            begin = stream.tell()
            return WavSize(size, stream.seek(0, 2) - begin, bytes_per_second)
        body = stream.read(min(size, 16)) if name == b"fmt " else b""
        bytes_per_second = struct.unpack_from("<I", body, 8)[0] if len(body) >= 12 else bytes_per_second
        stream.seek(size + size % 2 - len(body), 1)
    return None
