"""The name of a file on disk, or on the Hugging Face hub -> its path here."""

from __future__ import annotations

from pathlib import Path

HUB = "hf://"


def find_file(name: str, key: str) -> Path:
    """A path as it is; of hf://org/repo/path the file in the hub's cache, fetched if it is not there yet.

    `key` is what the user wrote the name into. Raises FileNotFoundError, and ValueError for an incomplete hub name.
    """
    path = hub_file(name, key) if name.startswith(HUB) else Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {name}, which {key} names")
    return path


def hub_file(name: str, key: str) -> Path:
    """The file that hf://org/repo/path names, here; raises as find_file does."""
    org, _, rest = name.removeprefix(HUB).partition("/")
    repo, _, path = rest.partition("/")
    if not (org and repo and path):
        raise ValueError(f"{key}={name} is not of the form {HUB}org/repo/path")
    try:
        return download_from_hub(f"{org}/{repo}", path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}: is the hub in reach, and the name right? Without it, bring "
            f"https://huggingface.co/{org}/{repo}/resolve/main/{path} here and give its path as {key}"
        ) from error


def download_from_hub(repository: str, path: str) -> Path:
    """A file of the hub, from its cache on this machine where it lies there; FileNotFoundError with the reason."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache  # takes a second to import

    # What a dropped connection raises belongs to requests, httpx or httpx2, by the version of the hub's library.
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        cached = try_to_load_from_cache(repository, path)
        return Path(cached if isinstance(cached, str) else hf_hub_download(repository, path))
    except (OSError, ValueError, HTTPError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise FileNotFoundError(f"{path} of {repository} could not be fetched ({reason})") from error
