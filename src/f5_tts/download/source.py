"""Sources of a model's files: the Hugging Face hub, its local cache, a URL or a folder."""

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
    """A file and what is known of it before the download; None stands for unknown."""

    name: str
    url: str
    size: int | None = None  # bytes
    checksum: str | None = None  # SHA-256, or the git blob id of 40 digits
    local_copy: Path | None = None  # a local copy, for example in the hub's cache
    public: bool = False  # not on the hub: downloaded without the user's token


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A source of files."""

    name: str
    files: dict[str, RemoteFile]
    offline_reason: str | None = None  # why nothing can be downloaded from it; only local copies are available then

    def has(self, name: str, folder: Path) -> bool:
        """Check whether the file is available; without a connection, a local copy or one in the folder is needed."""
        if self.offline_reason is None:
            return name in self.files
        return name in self.files and (self.files[name].local_copy is not None or (folder / name).is_file())


def list_hub_files(repository: str, names: Sequence[str], revision: str | None, *, offline: bool) -> Source:
    """List those of the named files that the repository has; without a connection, list those of its local cache.

    Raises:
        ValueError: the hub does not have the repository or the revision.
    """
    from huggingface_hub import constants, model_info

    # The error of a dropped connection is one of requests, httpx or httpx2, depending on the hub library's version.
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
    # the last three: the server that answered is no hub
    except (OSError, HTTPError, ValueError, KeyError, TypeError) as error:
        return list_cached_files(repository, names, revision, f"the hub is not reachable ({first_line(error)})")
    files = [as_remote_file(repository, info.sha or revision, entry) for entry in info.siblings or []]
    return Source(name=f"{repository} at {info.sha}", files={file.name: file for file in files if file.name in names})


def as_remote_file(repository: str, commit: str | None, entry: RepoSibling) -> RemoteFile:
    """Convert an entry of the hub's listing; it includes the local copy if the cache has one."""
    return RemoteFile(
        name=entry.rfilename,
        url=url_of(repository, entry.rfilename, commit),
        size=entry.size,
        checksum=entry.lfs.sha256 if entry.lfs else entry.blob_id,
        local_copy=cached_path(repository, entry.rfilename, commit),
    )


def list_cached_files(repository: str, names: Sequence[str], revision: str | None, offline_reason: str) -> Source:
    """List all named files, each with its copy in the hub's local cache if there is one."""
    local_copies = {name: cached_path(repository, name, revision) for name in names}
    files = {
        name: RemoteFile(name=name, url=url_of(repository, name, revision), checksum=checksum_of(copy), local_copy=copy)
        for name, copy in local_copies.items()
    }
    return Source(name=f"{repository} in the hub's cache", files=files, offline_reason=offline_reason)


def from_url(url: str, name: str, *, offline: bool) -> Source:
    """Build the source of a file outside the hub; the user's token is not sent to it."""
    return Source(
        name=url, files={name: RemoteFile(name=name, url=url, public=True)}, offline_reason=find_offline_reason(offline)
    )


def from_folder(name: str, names: Sequence[str], folder: Path) -> Source:
    """Build the source of files in a local folder, with their checksums."""
    files = [RemoteFile(name=file, url=name, local_copy=folder / file) for file in names]
    checksums = {file.name: verified_sha256(folder / file.name, file) for file in files}
    return Source(name=name, files={file.name: replace(file, checksum=checksums[file.name]) for file in files})


def find_offline_reason(offline: bool) -> str | None:
    """Return why no connection may be made, or None if one may."""
    from huggingface_hub import constants

    if offline:
        return "no connection was made, because of --offline"
    return "no connection was made, because HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else None


def checksum_of(copy: Path | None) -> str | None:
    """Return the checksum in the name of the link target of a cached file; None if the file is no link."""
    name = copy.readlink().name if copy is not None and copy.is_symlink() else ""
    return name if len(name) in (40, 64) and set(name) <= set(hexdigits) else None


def cached_path(repository: str, name: str, revision: str | None) -> Path | None:
    """Return the path of the file in the hub's local cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, name, revision=revision)
    return Path(path) if isinstance(path, str) else None


def url_of(repository: str, name: str, revision: str | None) -> str:
    """Return the download URL of the file."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, name, revision=revision)


def endpoint() -> str:
    """Return the address of the hub: HF_ENDPOINT, or that of Hugging Face."""
    from huggingface_hub.constants import ENDPOINT

    return ENDPOINT


def verified_sha256(path: Path, file: RemoteFile) -> str | None:
    """Compute the file's SHA-256; return None if the file is missing or its size or checksum does not match."""
    if not path.is_file() or path.stat().st_size != (file.size or path.stat().st_size):
        return None
    sha256, git_sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(READ_SIZE):
            sha256.update(block)
            git_sha1.update(block)
    return sha256.hexdigest() if file.checksum in (None, sha256.hexdigest(), git_sha1.hexdigest()) else None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message without its full stop, or the name of its type."""
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
