"""Folder that the web page works in: what it offers of its files, and no path outside of it."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
WEIGHTS = (".pt", ".safetensors")
STATE = ".f5-tts"  # folder of jobs and uploads
UPLOADS = f"{STATE}/uploads"
MAX_DEPTH = 4
SHOWN = (*AUDIO, ".html")  # endings of files that the page sends


@dataclass(frozen=True)
class Folder:
    """Folder whose files the page reads and writes; a path outside of it is refused, whatever it is called."""

    root: Path

    def inside(self, name: str) -> Path:
        """Return a path of the folder; raise ValueError for one outside, also by a link."""
        path = (self.root / name).resolve()
        if not name or not path.is_relative_to(self.root.resolve()):
            raise ValueError(f"{name or 'an empty name'} is no path in the folder of this page")
        return path

    def existing(self, name: str) -> Path:
        """Return a path of the folder that is there; raise ValueError otherwise."""
        path = self.inside(name)
        if not path.exists():
            raise ValueError(f"there is no {name} in the folder of this page")
        return path

    def checkpoints(self) -> list[str]:
        """List the files of weights, by path."""
        return self.names(lambda path, files: [name for name in files if name.endswith(WEIGHTS)])

    def recordings(self) -> list[str]:
        """List the folders with recordings."""
        found = self.names(lambda path, files: [""] * any(name.lower().endswith(AUDIO) for name in files))
        return [name for name in found if name != "."]

    def data_sets(self) -> list[str]:
        """List the data sets of the folder data, by name and tokenizer."""
        return sorted(path.parent.name for path in self.root.glob("data/*_*/raw"))

    def runs(self) -> list[str]:
        """List the folders with metrics."""
        return self.names(lambda path, files: [""] * ("metrics.jsonl" in files))

    def names(self, pick: Callable[[Path, list[str]], list[str]]) -> list[str]:
        """List paths relative to the folder, of what `pick` chooses of the files of each folder."""
        return sorted(
            (path / name).relative_to(self.root).as_posix() for path, files in self.walk() for name in pick(path, files)
        )

    def walk(self) -> Iterator[tuple[Path, list[str]]]:
        """Yield each folder that is not hidden, with its files; links are not followed."""
        for path, folders, files in os.walk(self.root):
            here = Path(path)
            is_deep = len(here.relative_to(self.root).parts) >= MAX_DEPTH
            folders[:] = [] if is_deep else [name for name in folders if not name.startswith(".")]
            yield here, files

    def save_upload(self, name: str, content: bytes) -> str:
        """Write an uploaded recording under a name that nobody has; return its path."""
        suffix = Path(name).suffix.lower()
        if suffix not in AUDIO:
            raise ValueError(f"{name} is no recording: {', '.join(AUDIO)} are read")
        plain = re.sub(r"\W+", "_", Path(name).stem)[:40]
        path = self.root / UPLOADS / f"{secrets.token_hex(8)}_{plain}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path.relative_to(self.root).as_posix()
