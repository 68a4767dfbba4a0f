"""A zip or tar.gz that came from elsewhere -> the files wanted of it, or a sentence that says why it is not trusted."""

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
MAX_MEMBER_BYTES = 2**30  # bytes of one member
MAX_TOTAL_BYTES = 2**31  # bytes of all
MAX_RATIO = 20  # bytes of all, for each byte of the archive; weights hardly shrink
ALWAYS_ALLOWED_BYTES = 2**20  # bytes that may come out of any archive, whatever its ratio
ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Member:
    name: str  # as written in the archive
    kind: str  # "file", "folder", or what else it is
    size: int  # bytes when unpacked, as declared; reading it never gives more
    open: Callable[[], IO[bytes] | None]

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.name)


def unpack(archive: Path, names: Sequence[str], folder: Path) -> None:
    """Writes these files, which must lie side by side somewhere in the archive, into a folder that exists.

    Nothing else of it is written, and nothing at all if a member is what no archive of a model needs: outside of the
    folder, a link or device, there twice, below a file, or beyond the limits above. ValueError says which.
    """
    try:
        check(members(archive), max_unpacked_bytes(archive))
        paths = common_folder(names, [member.path for member in members(archive) if member.kind == "file"])
        for member in members(archive):
            if member.path in paths:
                write_member(member, folder / member.path.name)
    except ARCHIVE_ERRORS as error:
        raise ValueError(f"{archive} is not a whole zip or tar.gz ({error})") from error
    except (ValueError, RuntimeError) as error:  # RuntimeError: a member is encrypted, or headers nest without end
        raise ValueError(f"{archive} is refused: {error}") from error
    except OSError as error:
        raise OSError(f"{archive} cannot be unpacked ({error})") from error


def max_unpacked_bytes(archive: Path) -> int:
    """How many bytes may come out of it."""
    return min(MAX_TOTAL_BYTES, max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * archive.stat().st_size))


# --- what is in it ---


def members(archive: Path) -> Iterator[Member]:
    """One after the other; each may be opened until the next is asked for."""
    return zip_members(archive) if zipfile.is_zipfile(archive) else tar_members(archive)


def zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            yield Member(info.orig_filename, zip_kind(info), info.file_size, partial(opened.open, info))


def zip_kind(info: zipfile.ZipInfo) -> str:
    mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
    if info.filename.endswith("/") or mode == stat.S_IFDIR:  # is_dir() of Python 3.11 fails without a name
        return "folder"
    if mode not in (0, stat.S_IFREG):
        return "link or device"
    is_usual = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    return "file" if is_usual else "file packed as few programs pack it"


def tar_members(archive: Path) -> Iterator[Member]:
    with gzip.open(archive) as decompressed:
        stream = BoundedStream(decompressed, max_unpacked_bytes(archive))
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as opened:
            for info in opened:
                is_regular = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not info.issparse()
                kind = "file" if is_regular else "folder" if info.isdir() else "link or device"
                yield Member(info.name, kind, info.size, partial(opened.extractfile, info))
        while stream.read(ALWAYS_ALLOWED_BYTES):  # its checksum stands at the end
            pass


class BoundedStream:
    """A stream that gives only so many bytes; a tar is read through it, since its headers can be bombs as well."""

    def __init__(self, stream: gzip.GzipFile, max_bytes: int):
        self.stream = stream
        self.remaining_bytes = max_bytes

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.remaining_bytes -= len(data)
        if self.remaining_bytes < 0:
            raise ValueError("it unpacks to far more than a model of its size")
        return data


# --- what it may be ---


def check(archive_members: Iterable[Member], max_bytes: int) -> None:
    """Raises ValueError at the first member that is not as it should be; later ones are then not even read."""
    kinds: dict[PurePosixPath, str] = {}
    total = 0
    for count, member in enumerate(archive_members, start=1):
        total += member.size
        if count > MAX_MEMBERS:
            raise ValueError(f"it has more than {MAX_MEMBERS} members")
        if member.size > MAX_MEMBER_BYTES or total > max_bytes:
            raise ValueError(f"it unpacks to far more than a model of its size ({member.name!r}: {member.size} bytes)")
        if problem := violation(member, kinds):
            raise ValueError(f"its member {member.name!r} {problem}")
        kinds.update(dict.fromkeys(member.path.parents, "folder") | {member.path: member.kind})


def violation(member: Member, earlier_kinds: dict[PurePosixPath, str]) -> str | None:
    """What is wrong with it, after those members and folders before it."""
    if member.path.is_absolute() or ".." in member.path.parts or any(char in member.name for char in "\\:\0"):
        return "would lie outside of the folder"
    if member.kind not in ("file", "folder"):
        return f"is a {member.kind}"
    if member.kind == earlier_kinds.get(member.path) == "file":
        return "is there twice"
    if earlier_kinds.get(member.path, member.kind) != member.kind or "file" in map(
        earlier_kinds.get, member.path.parents
    ):
        return "is below or above a file of that name"
    return None


def common_folder(names: Sequence[str], files: Sequence[PurePosixPath]) -> set[PurePosixPath]:
    """Where those files lie, which is one folder; ValueError if no folder has them all, or more than one."""
    folders = [folder for folder in {path.parent for path in files} if all(folder / name in files for name in names)]
    if len(folders) != 1:
        raise ValueError(f"{len(folders)} of its folders have {' and '.join(names)}, where one should")
    return {folders[0] / name for name in names}


def write_member(member: Member, path: Path) -> None:
    source = member.open()
    assert source is not None  # of a plain file
    with source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
