"""A hub on loopback, and a user who downloads from it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.download.hub import Hub

from f5_tts.scripts.fetch_reward_asr_model import FILES, REPOSITORY, WEIGHTS

OTHER_SETTINGS = ("HF_", "HUGGING", "TRANSFORMERS_OFFLINE", "TQDM")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as served:
        yield served


@dataclass(frozen=True)
class User:
    """Runs our commands in separate processes, with a hub and a home folder of the hub's client of their own."""

    home: Path
    endpoint: str

    def settings(self, **changes: str) -> dict[str, str]:
        own = {key: value for key, value in os.environ.items() if not key.startswith(OTHER_SETTINGS)}
        return {
            **own,
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": self.endpoint,
            "NO_PROXY": "127.0.0.1,localhost",
            **changes,
        }

    def run(self, module: str, *arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", f"f5_tts.scripts.{module}", *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, env=self.settings(**settings), check=False)

    def fill_cache(self, repository: str, *names: str) -> None:
        """Download files to the client's cache with the hub's own client."""
        code = "import sys, huggingface_hub as hub; [hub.hf_hub_download(sys.argv[1], name) for name in sys.argv[2:]]"
        subprocess.run([sys.executable, "-c", code, repository, *names], env=self.settings(), check=True)


@pytest.fixture
def user(hub: Hub, tmp_path: Path) -> User:
    return User(tmp_path / "home", hub.url)


def asr_model(seed: int = 0, size: int = 3000) -> dict[str, bytes]:
    """Make the files of SenseVoiceSmall by name, with random content; `size` is that of the weights in bytes."""
    content = random.Random(seed)
    return {name: content.randbytes(size if name == WEIGHTS else 40) for name in FILES}


@pytest.fixture
def files(hub: Hub) -> dict[str, bytes]:
    """Add the ASR model to the hub and return its files."""
    hub.repositories[REPOSITORY, "main"] = asr_model()
    return hub.repositories[REPOSITORY, "main"]


def lying_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lay(folder: Path, files: dict[str, bytes]) -> None:
    """Write the files to the folder, as a user would who obtained them manually."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
