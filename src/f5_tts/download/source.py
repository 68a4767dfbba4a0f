"""Where the files of a model are to be had: the Hugging Face hub, its cache on this machine, a URL, a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import hexdigits
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

READ_SIZE = 2**20  # bytes hashed at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """One file, and what is known of it without having it; None: nobody says."""

    name: str
    url: str
    size: int | None = None  # bytes
    checksum: str | None = None  # its sha256, or the 40 digits that git names it by
    local_copy: Path | None = None  # a copy on this machine, as in the hub's cache
    public: bool = False  # not the hub's: asked for without the user's token


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where files come from."""

    name: str
    files: dict[str, RemoteFile]
    offline_reason: str | None = None  # why nothing can be fetched from it: only copies on this machine count then

    def has(self, name: str, folder: Path) -> bool:
        """Whether the file can be had, if only because it lies in the folder."""
        if self.offline_reason is None:
            return name in self.files
        return name in self.files and (self.files[name].local_copy is not None or (folder / name).is_file())


def list_hub_files(repository: str, names: Sequence[str], revision: str | None, *, offline: bool) -> Source:
    """Those of the named files that the repository has; if the hub is silent, what its cache on this machine says."""
    from huggingface_hub import constants, model_info

    # What a dropped connection raises belongs to requests, httpx or httpx2, by the version of the hub's library.
    from huggingface_hub.errors import (
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if offline_reason := find_offline_reason(offline):
        return list_cached_files(repository, names, revision, offline_reason)
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    try:
        info = model_info(repository, revision=revision, files_metadata=True, timeout=timeout)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        reason = f"({first_line(error)}); is --revision right?"
        raise ValueError(f"the hub has no {repository} at {revision or 'its main branch'} {reason}") from error
    except (OSError, HTTPError, ValueError, KeyError, TypeError) as error:  # the last three: what answered is no hub
        return list_cached_files(repository, names, revision, f"the hub is not in reach ({first_line(error)})")
    files = [as_remote_file(repository, info.sha or revision, entry) for entry in info.siblings or []]
    return Source(name=f"{repository} at {info.sha}", files={file.name: file for file in files if file.name in names})


def as_remote_file(repository: str, commit: str | None, entry: RepoSibling) -> RemoteFile:
    """A file as the hub lists it; one already in its cache here need not be fetched again."""
    return RemoteFile(
        name=entry.rfilename,
        url=url_of(repository, entry.rfilename, commit),
        size=entry.size,
        checksum=entry.lfs.sha256 if entry.lfs else entry.blob_id,
        local_copy=cached_path(repository, entry.rfilename, commit),
    )


def list_cached_files(repository: str, names: Sequence[str], revision: str | None, offline_reason: str) -> Source:
    """All the named files, each with its copy in the hub's cache if there is one."""
    local_copies = {name: cached_path(repository, name, revision) for name in names}
    files = {
        name: RemoteFile(name=name, url=url_of(repository, name, revision), checksum=checksum_of(copy), local_copy=copy)
        for name, copy in local_copies.items()
    }
    return Source(name=f"{repository} in the hub's cache", files=files, offline_reason=offline_reason)


def from_url(url: str, name: str, *, offline: bool) -> Source:
    """A file that is not on the hub; it gets no token of the user's."""
    return Source(
        name=url, files={name: RemoteFile(name=name, url=url, public=True)}, offline_reason=find_offline_reason(offline)
    )


def from_folder(name: str, names: Sequence[str], folder: Path) -> Source:
    """Files of a folder on this machine."""
    files = [RemoteFile(name=file, url=name, local_copy=folder / file) for file in names]
    checksums = {file.name: verified_sha256(folder / file.name, file) for file in files}
    return Source(name=name, files={file.name: replace(file, checksum=checksums[file.name]) for file in files})


def find_offline_reason(offline: bool) -> str | None:
    """Why nobody may be asked."""
    from huggingface_hub import constants

    if offline:
        return "nothing was asked of the network, since --offline says so"
    return "nothing was asked of the network, since HF_HUB_OFFLINE says so" if constants.HF_HUB_OFFLINE else None


def checksum_of(copy: Path | None) -> str | None:
    """The checksum by which the hub's cache names what it links to; None on a system without links."""
    name = copy.readlink().name if copy is not None and copy.is_symlink() else ""
    return name if len(name) in (40, 64) and set(name) <= set(hexdigits) else None


def cached_path(repository: str, name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, name, revision=revision)
    return Path(path) if isinstance(path, str) else None


def url_of(repository: str, name: str, revision: str | None) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, name, revision=revision)


def verified_sha256(path: Path, file: RemoteFile) -> str | None:
    """The sha256 of what lies there, if it is the whole file as far as anybody says; else None."""
    if not path.is_file() or path.stat().st_size != (file.size or path.stat().st_size):
        return None
    sha256, git_sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(READ_SIZE):
            sha256.update(block)
            git_sha1.update(block)
    return sha256.hexdigest() if file.checksum in (None, sha256.hexdigest(), git_sha1.hexdigest()) else None


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
