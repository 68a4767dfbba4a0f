"""Extraction of model files from an untrusted zip or tar.gz archive, with limits on paths, member types and sizes."""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

MAX_MEMBERS = 1000
MAX_MEMBER_BYTES = 2**30  # bytes per member
MAX_TOTAL_BYTES = 2**31  # bytes of all members
MAX_RATIO = 20  # bytes of all members per byte of the archive; weights hardly compress
ALWAYS_ALLOWED_BYTES = 2**20  # bytes that any archive may contain, whatever its ratio
ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive."""

    name: str  # as written in the archive
    kind: str  # "file", "folder", or the kind that is refused
    size: int  # declared bytes after unpacking; reading never returns more
    open: Callable[[], IO[bytes] | None]

    @property
    def path(self) -> PurePosixPath:
        """Return the member's name as a POSIX path."""
        return PurePosixPath(self.name)


def unpack(archive: Path, names: Sequence[str], folder: Path) -> None:
    """Extract the named files from the archive into `folder`, which must exist.

    The named files must lie in one folder of the archive; no other member is written. Nothing is written if any member
    is unsafe: a path outside of the folder, a link or device, a duplicate, a path below a file, or a size above the
    limits.

    Raises:
        ValueError: the archive is damaged, encrypted or unsafe; the message names the member.
        OSError: the archive cannot be read, or a file cannot be written.
    """
    try:
        check(members(archive), max_unpacked_bytes(archive))
        paths = common_folder(names, [member.path for member in members(archive) if member.kind == "file"])
        for member in members(archive):
            if member.path in paths:
                write_member(member, folder / member.path.name)
    except ARCHIVE_ERRORS as error:
        raise ValueError(f"{archive} is not a complete zip or tar.gz ({error})") from error
    except (ValueError, RuntimeError) as error:  # RuntimeError: an encrypted member, or headers nested too deeply
        raise ValueError(f"{archive} is refused: {error}") from error
    except OSError as error:
        raise OSError(f"{archive} cannot be unpacked ({error})") from error


def max_unpacked_bytes(archive: Path) -> int:
    """Compute how many bytes may be extracted: `MAX_RATIO` times the archive's size.

    It is at least `ALWAYS_ALLOWED_BYTES` and at most `MAX_TOTAL_BYTES`.
    """
    return min(MAX_TOTAL_BYTES, max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * archive.stat().st_size))


# --- members ---


def members(archive: Path) -> Iterator[Member]:
    """Return an iterator over the members; each must be opened before the next one is requested."""
    return zip_members(archive) if zipfile.is_zipfile(archive) else tar_members(archive)


def zip_members(archive: Path) -> Iterator[Member]:
    """Yield the members of a zip archive."""
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            yield Member(info.orig_filename, zip_kind(info), info.file_size, partial(opened.open, info))


def zip_kind(info: zipfile.ZipInfo) -> str:
    """Classify a zip member: file, folder, link or device, or file with an unusual compression method."""
    mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
    if info.filename.endswith("/") or mode == stat.S_IFDIR:  # is_dir() of Python 3.11 fails without a name
        return "folder"
    if mode not in (0, stat.S_IFREG):
        return "link or device"
    is_usual = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    return "file" if is_usual else "file with an unusual compression method"


def tar_members(archive: Path) -> Iterator[Member]:
    """Yield the members of a tar.gz archive, then read to its end, where gzip verifies the checksum."""
    with gzip.open(archive) as decompressed:
        stream = BoundedStream(decompressed, max_unpacked_bytes(archive))
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as opened:
            for info in opened:
                is_regular = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.issparse()
                kind = "file" if is_regular else "folder" if info.isdir() else "link or device"
                yield Member(info.name, kind, info.size, partial(opened.extractfile, info))
        while stream.read(ALWAYS_ALLOWED_BYTES):  # gzip verifies the checksum at the end
            pass


class BoundedStream:
    """A gzip stream with a limit on the bytes read; a tar is read through it, as its headers may be bombs too."""

    def __init__(self, stream: gzip.GzipFile, max_bytes: int):
        self.stream = stream
        self.remaining_bytes = max_bytes

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; raise ValueError once the total exceeds the limit."""
        data = self.stream.read(size)
        self.remaining_bytes -= len(data)
        if self.remaining_bytes < 0:
            raise ValueError("it unpacks to more bytes than allowed")
        return data


# --- checks ---


def check(archive_members: Iterable[Member], max_bytes: int) -> None:
    """Raise ValueError at the first member that is unsafe or exceeds the limits; later members are not read."""
    kinds: dict[PurePosixPath, str] = {}
    total = 0
    for count, member in enumerate(archive_members, start=1):
        total += member.size
        if count > MAX_MEMBERS:
            raise ValueError(f"it has more than {MAX_MEMBERS} members")
        if member.size > MAX_MEMBER_BYTES or total > max_bytes:
            raise ValueError(f"it unpacks to more bytes than allowed ({member.name!r}: {member.size} bytes)")
        if problem := violation(member, kinds):
            raise ValueError(f"its member {member.name!r} {problem}")
        kinds.update(dict.fromkeys(member.path.parents, "folder") | {member.path: member.kind})


def violation(member: Member, earlier_kinds: dict[PurePosixPath, str]) -> str | None:
    """Return why the member is unsafe, given the members and folders before it, or None if it is safe."""
    if member.path.is_absolute() or ".." in member.path.parts or any(char in member.name for char in "\\:\0"):
        return "would lie outside of the folder"
    if member.kind not in ("file", "folder"):
        return f"is a {member.kind}"
    if member.kind == earlier_kinds.get(member.path) == "file":
        return "occurs twice"
    if earlier_kinds.get(member.path, member.kind) != member.kind or "file" in map(
        earlier_kinds.get, member.path.parents
    ):
        return "lies below a file, or is both a file and a folder"
    return None


def common_folder(names: Sequence[str], files: Sequence[PurePosixPath]) -> set[PurePosixPath]:
    """Return the named files' paths; raise ValueError unless exactly one folder of the archive holds them all."""
    folders = [folder for folder in {path.parent for path in files} if all(folder / name in files for name in names)]
    if len(folders) != 1:
        raise ValueError(f"{len(folders)} of its folders contain {' and '.join(names)}; exactly one must")
    return {folders[0] / name for name in names}


def write_member(member: Member, path: Path) -> None:
    """Write the member's content to `path`."""
    source = member.open()
    assert source is not None  # extractfile returns None only for members that are no plain files
    with source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
