"""Other distributions that claim files of this package, and whether it is installed from a clone."""

from __future__ import annotations

import hashlib
import os
import sys
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

FOLDER = Path(__file__).parents[1]  # that the package is installed in
OWN = "f5_tts_rl"  # our distribution
SAID = "F5_TTS_CLAIM_SAID"  # environment variable: this process, or one that started it, has said so
EXIT_REFUSED = 2


def is_clone() -> bool:
    """Check whether the package is used from a clone of its repository, where `pip install -e .` works."""
    return (FOLDER.parent / "pyproject.toml").is_file()


def claimants(folder: Path = FOLDER) -> list[str]:
    """List the other distributions, each with its version, whose RECORD in this folder claims files of this package."""
    names = [path.parent.stem.rpartition("-") for path in records(folder)]
    return [f"{name.replace('_', '-')} {version}" for name, _, version in names if name.lower() != OWN]


def records(folder: Path) -> list[Path]:
    """List the RECORD files in this folder, ours too, that claim files of this package."""
    return [path for path in sorted(folder.glob("*.dist-info/RECORD")) if claims_files(path)]


def claims_files(record: Path) -> bool:
    """Check whether a distribution has files of this package; one that cannot be read has none."""
    try:
        content = record.read_bytes()
    except OSError:
        return False
    return content.startswith(b"f5_tts/") or b"\nf5_tts/" in content


def report_claims(folder: Path = FOLDER) -> None:
    """Say once on stderr, whatever processes are started, that another distribution claims files of this package."""
    if SAID in os.environ or not (found := claimants(folder)):
        return
    os.environ[SAID] = "1"
    print(
        f"warning: {' and '.join(found)} is installed in the same folder as f5-tts-rl and has files of the same names: "
        "either may run code of the other; keep one of them, as docs/compatibility.md shows under Side by side",
        file=sys.stderr,
    )


# --- files that another distribution has replaced ---


def refuse_replaced_files(words: Sequence[str], folder: Path = FOLDER) -> None:
    """End a command of ours with one sentence if another distribution has replaced files of this package.

    `words` are those of the process, after the interpreter. A command that the other distribution has too is its
    own, and runs.
    """
    theirs = {path for record in records(folder) if not is_own(record) for path in hashes(record)}
    if not theirs or any(path.endswith(command_file(words)) for path in theirs):
        return
    if names := replaced_files(folder, theirs):
        print(
            f"error: {' and '.join(claimants(folder))} has replaced files of f5-tts-rl ({len(names)}, such as "
            f"{names[0]}): pip uninstall it, then pip install --force-reinstall --no-deps the wheel of f5-tts-rl, as "
            "docs/compatibility.md shows under Side by side",
            file=sys.stderr,
        )
        sys.exit(EXIT_REFUSED)


def command_file(words: Sequence[str]) -> str:
    """Return the end of the path of the file that these words start: a script in `bin`, or a module of ours."""
    modules = [name for flag, name in pairwise(words) if flag == "-m" and name.startswith("f5_tts.")]
    return f"{modules[0].replace('.', '/')}.py" if modules else f"bin/{Path(words[0]).name}"


def replaced_files(folder: Path, theirs: set[str]) -> list[str]:
    """List the files of the package that are ours by our RECORD and theirs by theirs, and whose content is not ours."""
    ours = {path: digest for record in records(folder) if is_own(record) for path, digest in hashes(record).items()}
    shared = sorted(path for path in theirs & ours.keys() if path.startswith("f5_tts/") and ours[path])
    return [path for path in shared if sha256_of(folder / path) != ours[path]]


def is_own(record: Path) -> bool:
    """Check whether a RECORD is that of our distribution."""
    return record.parent.name.lower().startswith(f"{OWN}-")


def hashes(record: Path) -> dict[str, str]:
    """Return the hash of each file of a RECORD, as it is written there; `path,sha256=...,size` is a line."""
    lines = [line.rsplit(",", 2) for line in record.read_text(encoding="utf-8").splitlines()]
    return {fields[0].strip('"'): fields[1] for fields in lines if len(fields) == 3}


def sha256_of(path: Path) -> str:
    """Hash a file as a RECORD does; empty where it is missing."""
    if not path.is_file():
        return ""
    return "sha256=" + urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode().rstrip("=")
