from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """A model of a few thousand weights on the shipped speech, four updates, every second one kept."""
    sizes = {"dim": 32, "depth": 2, "heads": 2, "dim_head": 16, "text_dim": 16, "conv_layers": 1}
    optim = {"max_updates": 4, "num_warmup_updates": 1, "learning_rate": 0.01}
    ckpts = {"save_per_updates": 2, "last_per_updates": 3}
    return [
        "datasets.name=mini",
        "model.vocoder.iterations=2",
        *(f"model.arch.{key}={value}" for key, value in sizes.items()),
        *(f"optim.{key}={value}" for key, value in optim.items()),
        *(f"ckpts.{key}={value}" for key, value in ckpts.items()),
    ]


@pytest.fixture(scope="session")
def at_home() -> Iterator[None]:
    """In the repository's root, from which data sets name their audio."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        yield
