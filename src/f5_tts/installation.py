"""Other distributions that claim files of this package, and whether it is installed from a clone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1]  # that the package is installed in
SAID = "F5_TTS_CLAIM_SAID"  # environment variable: this process, or one that started it, has said so


def is_clone() -> bool:
    """Check whether the package is used from a clone of its repository, where `pip install -e .` works."""
    return (FOLDER.parent / "pyproject.toml").is_file()


def claimants(folder: Path = FOLDER) -> list[str]:
    """List the other distributions, each with its version, whose RECORD in this folder claims files of this package."""
    records = [path for path in sorted(folder.glob("*.dist-info/RECORD")) if claims_files(path)]
    names = [path.parent.stem.rpartition("-") for path in records]
    return [f"{name.replace('_', '-')} {version}" for name, _, version in names if name.lower() != "f5_tts_rl"]


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
