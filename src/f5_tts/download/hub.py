"""Files on disk or on the Hugging Face hub, by name, and uploads to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from f5_tts.download.source import first_line, url_of
from f5_tts.files import HUB, user_path

SHIPPED = "pretrained/"  # weights that no wheel holds
CACHE_DIR: ContextVar[str | None] = ContextVar("CACHE_DIR", default=None)  # folder of the cache; None: the hub's own


@contextmanager
def hub_cache(folder: str | None) -> Iterator[None]:
    """Download into this cache folder inside the block; None means the hub's own."""
    token = CACHE_DIR.set(folder)
    try:
        yield
    finally:
        CACHE_DIR.reset(token)


def find_file(name: str, key: str) -> Path:
    """Return the path of a file; hf://org/repo/path is downloaded into the hub's cache unless it is there.

    `key` is the option or config key that holds the name.

    Raises:
        FileNotFoundError: there is no such file, or it cannot be downloaded.
        ValueError: a hub name is incomplete.
    """
    require_file(name, key)
    return hub_file(name, key) if name.startswith(HUB) else user_path(name)


def require_file(name: str, key: str) -> None:
    """Raise FileNotFoundError unless there is a file of this name; those of the hub are not looked for."""
    if not name.startswith(HUB) and not user_path(name).is_file():
        advice = f"; {SHIPPED} is a folder of the repository: start in a clone of it, or name another file"
        raise FileNotFoundError(f"no file at {name}, which {key} names{advice if name.startswith(SHIPPED) else ''}")


def hub_file(name: str, key: str) -> Path:
    """Return the local path of the file that hf://org/repo/path names; raise the same errors as `find_file`."""
    org, _, rest = name.removeprefix(HUB).partition("/")
    repo, _, path = rest.partition("/")
    if not (org and repo and path):
        raise ValueError(f"{key}={name} is not of the form {HUB}org/repo/path")
    try:
        return download_from_hub(f"{org}/{repo}", path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}: is the hub reachable, and the name right? Otherwise copy "
            f"{url_of(f'{org}/{repo}', path, 'main')} here and give its path as {key}"
        ) from error


def download_from_hub(repository: str, path: str) -> Path:
    """Return a hub file's path in the local cache, after a download if it is not there.

    Raises:
        FileNotFoundError: the download failed; the message has the reason.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache  # takes a second to import

    # Connection errors come from requests, httpx or httpx2, depending on the version of huggingface_hub.
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        folder = CACHE_DIR.get()
        cached = try_to_load_from_cache(repository, path, cache_dir=folder)
        if isinstance(cached, str):
            return Path(cached)
        if not constants.HF_HUB_OFFLINE:
            ask_once(repository, path)
        return Path(hf_hub_download(repository, path, cache_dir=folder))
    except (OSError, ValueError, HTTPError) as error:
        reason = "HF_HUB_OFFLINE is set, and the cache lacks it" if constants.HF_HUB_OFFLINE else first_line(error)
        raise FileNotFoundError(f"{path} of {repository} could not be downloaded ({reason})") from error


def ask_once(repository: str, path: str, kind: str = "model") -> None:
    """Ask the hub for a file without downloading it; raise the client's error if that fails.

    The client itself asks six times in half a minute, and prints each time that it does.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository, path, repo_type=kind)
    get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)


@contextmanager
def offline_if_unreachable(repository: str) -> Iterator[str | None]:
    """Let the hub's client use its cache alone inside the block if a data set cannot be asked for; give the reason."""
    from datasets import config
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # pyright: ignore[reportPrivateImportUsage]

    before, reason = constants.HF_HUB_OFFLINE, "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else None
    if reason is None:
        try:
            ask_once(repository, "README.md", "dataset")
        except (OSError, HTTPError) as error:  # where a hub answers, there may be no such file in the data set
            answers = isinstance(error, HfHubHTTPError) and error.response.status_code < 500
            reason = None if answers else f"the hub cannot be reached ({first_line(error)})"
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = reason is not None
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = before


def push_files(files: Sequence[Path], folder: Path, repository: str) -> str:
    """Upload files of a folder to a model of the hub, which is created where it does not exist; return its address.

    Raises:
        OSError: the hub refused them, or cannot be reached; the message has the reason.
    """
    from huggingface_hub import HfApi  # takes a second to import
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    names = [str(path.relative_to(folder)) for path in files]
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=names, commit_message="Add model")
    except (OSError, ValueError, HTTPError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise OSError(
            f"{folder} could not be uploaded to {repository} ({reason}); the name is ORG/NAME, and a token with write "
            "access comes from HF_TOKEN or from `hf auth login`"
        ) from error
    return f"{api.endpoint}/{repository}"
