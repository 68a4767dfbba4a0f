"""Download of a model's files to a folder, complete and verified, and the flags that both fetch commands share."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from f5_tts.commands import new_parser
from f5_tts.download.source import RemoteFile, Source, first_line, verified_sha256
from f5_tts.files import user_path

STAGING = ".fetch"  # staging folder in --cache_dir for partial files


def command_line(command: str) -> ArgumentParser:
    """Build the argument parser that both fetch commands share."""
    parser = new_parser(command)
    parser.add_argument("--cache_dir", type=folder, required=True, metavar="DIR", help="folder for the model")
    parser.add_argument("--revision", help="a branch, tag or commit of the hub's repository; default: its main branch")
    parser.add_argument("--offline", action="store_true", help="make no connection; use only files on this machine")
    return parser


def folder(text: str) -> Path:
    """Convert an argument to a path; raise ArgumentTypeError if a file has that path."""
    path = user_path(text)
    if path.exists() and not path.is_dir():
        raise ArgumentTypeError(f"{path} is a file, where a folder should be")
    return path


def ensure_files(source: Source, names: Sequence[str], folder: Path, root: Path, advice: str | None = None) -> None:
    """Copy or download the missing files to the folder, once all are complete and verified; keep files that match.

    The last name should be that of the weights: this file is moved last, so that a folder that has it holds a whole
    model. Partial files stay in `root` for the next run. `advice` is an alternative to suggest if files are missing.
    """
    require(source, names, folder, advice)
    if source.offline_reason:
        print(f"{source.offline_reason}: using the files on this machine", flush=True)
    missing = [name for name in names if not is_present(source, name, folder)]
    if missing:
        # another process may have installed some files while this one waited for the lock
        with staging_dir(root) as staging:
            staged = {
                name: download_verified(source, name, folder, staging)
                for name in missing
                if not is_present(source, name, folder)
            }
            if staged:
                install(source, names, staged, folder, staging)


def require(source: Source, names: Sequence[str], folder: Path, advice: str | None) -> None:
    """Raise ValueError or FileNotFoundError if files are missing; the message says how to obtain them manually."""
    missing = [name for name in names if not source.has(name, folder)]
    if not missing:
        return
    if source.offline_reason is None:
        alternative = f", or {advice}" if advice else ""
        raise ValueError(f"{source.name} has no {', '.join(missing)}: try another --revision{alternative}")
    lines = [f"  {name} from {source.files[name].url}" for name in missing] + ([f"or {advice}"] if advice else [])
    raise FileNotFoundError("\n".join([f"{source.offline_reason}; copy these files to {folder} manually:", *lines]))


def is_present(source: Source, name: str, folder: Path) -> bool:
    """Check whether the folder has a valid copy of the file, and report the copy."""
    sha256 = verified_sha256(folder / name, source.files[name])
    if sha256:
        report(source, name, sha256, "already present")
    return sha256 is not None


def report(source: Source, name: str, sha256: str, action: str) -> None:
    """Print the SHA-256 of the file, how it was obtained, and whether there was a checksum to compare it with."""
    verification = f"as in {source.name}" if source.files[name].checksum else "no checksum to compare it with"
    print(f"{name}: sha256 {sha256} ({action}; {verification})", flush=True)


@contextmanager
def staging_dir(root: Path) -> Iterator[Path]:
    """Lock and yield a staging folder in `root` for partial files; remove it after success."""
    from huggingface_hub.utils import WeakFileLock

    staging, lock = root / STAGING, root / f"{STAGING}.lock"
    root.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        staging.mkdir(exist_ok=True)
        yield staging
        shutil.rmtree(staging)
        with suppress(PermissionError):  # some systems do not delete a file that is open
            lock.unlink()


def download_verified(source: Source, name: str, folder: Path, staging: Path) -> Path:
    """Copy or download the file to the staging folder, verify it, and return its path.

    If the continuation of a partial file does not match, the whole file is downloaded again. Raises OSError if the
    checksum does not match.
    """
    file = source.files[name]
    tmp_path = staged_path(file, staging)
    had_partial = tmp_path.exists()
    sha256 = verified_sha256(tmp_path, file) or copy_or_download(tmp_path, file, folder)
    if had_partial and not sha256:  # the partial file of an earlier run did not belong to this file
        sha256 = copy_or_download(tmp_path, file, folder)
    if not sha256:
        advice = "delete it" if file.local_copy else "it was deleted, and the same command downloads it again"
        raise OSError(
            f"{file.local_copy or file.url} does not have the checksum of {source.name}, {file.checksum}: {advice}"
        )
    report(source, name, sha256, "copied" if file.local_copy else "fetched")
    return tmp_path


def staged_path(file: RemoteFile, staging: Path) -> Path:
    """Return the file's path in the staging folder, which differs for each version of the file."""
    return staging / f"{file.name}.{file.checksum or 'unverified'}"


def copy_or_download(tmp_path: Path, file: RemoteFile, folder: Path) -> str | None:
    """Copy the file or download what is missing; return its SHA-256, or delete it and return None if it is wrong."""
    if file.local_copy is not None:
        shutil.copyfile(file.local_copy, tmp_path)
    else:
        download_or_explain(file, tmp_path, folder)
    sha256 = verified_sha256(tmp_path, file)
    if sha256 is None:
        tmp_path.unlink()
    return sha256


def download_or_explain(file: RemoteFile, tmp_path: Path, folder: Path) -> None:
    """Download what is missing of the file; raise OSError with a message on how to resume."""
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        download(file, tmp_path)
    except (OSError, ValueError, HTTPError) as error:
        raise OSError(
            f"{file.name} could not be downloaded ({first_line(error)}): run the same command again, which resumes "
            f"from here, or copy it from {file.url} to {folder} manually"
        ) from error


def download(file: RemoteFile, tmp_path: Path) -> None:
    """Download the file with a progress bar; resume a partial file.

    This does not use hf_hub_download, whose recent versions discard the beginning of an interrupted download.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = {} if file.public else build_hf_headers(library_name="f5_tts")  # these contain the user's token
    headers["Accept-Encoding"] = "identity"  # a byte range of a compressed response is not one of the file
    resumes = file.checksum is not None and tmp_path.exists() and tmp_path.stat().st_size < (file.size or 0)
    with tmp_path.open("ab" if resumes else "wb") as stream:
        size = stream.tell()
        http_get(
            file.url, stream, resume_size=size, headers=headers, expected_size=file.size, displayed_filename=file.name
        )


def install(source: Source, names: Sequence[str], staged: dict[str, Path], folder: Path, staging: Path) -> None:
    """Move all files to the folder; the last named file is absent while the others change."""
    folder.mkdir(parents=True, exist_ok=True)
    last_path = folder / names[-1]
    if names[-1] not in staged:
        staged[names[-1]] = last_path.replace(staged_path(source.files[names[-1]], staging))
    last_path.unlink(missing_ok=True)
    for name in sorted(staged, key=list(names).index):
        staged[name].replace(folder / name)
