"""Fixtures shared by several test folders: golden files, models with golden weights, and the import of FunASR."""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.forkserver import FORK, Servers, installed

if TYPE_CHECKING:  # pytest imports this file before it starts its workers, and torch would make them wait
    from torch import Tensor

    from f5_tts.config.schema import ArchConfig
    from f5_tts.model.backbones.dit import DiT
    from f5_tts.model.backbones.unett import UNetT
    from f5_tts.model.cfm import CFM

GOLDENS = Path(__file__).parent / "goldens"
MEL_BINS, TOKENS = 20, 30  # of every golden model
GAUSSIAN = ("dit", "unett")  # golden models with a Gaussian head
WITH_FUNASR = (  # files that import FunASR, which takes eight seconds: one worker runs them all
    *("tests/e2e/test_guide.py", "tests/rewards/asr/test_funasr_wer.py", "tests/rewards/asr/test_sensevoice_loss.py"),
    *("tests/rewards/asr/test_funasr_words.py", "tests/rewards/test_gradient_chain.py"),
    "tests/rewards/test_loss_memory.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file to one worker, since its tests share runs, and all of `WITH_FUNASR` to the same."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return WITH_FUNASR[0] if file in WITH_FUNASR else file

    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def signals_end() -> None:
    """Restore the handling of Ctrl-C and SIGHUP, which tests in the background or under nohup would ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def fork_servers(signals_end: None) -> Iterator[Servers | None]:
    """Start our commands as forks; F5_TTS_TESTS_FORK=0 in the environment of one lets the interpreter start it."""
    if sys.platform != "linux":
        yield None
        return
    servers = Servers(os.environ, {})
    with installed(servers):
        yield servers


@pytest.fixture(scope="session")
def interpreter(fork_servers: Servers | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a program for shell scripts that does what the interpreter does, by forks where it can."""
    if fork_servers is None:
        return Path(sys.executable)
    path: Path = tmp_path_factory.mktemp("interpreter") / "python"
    fork_servers.write_interpreter(path)
    return path


def pytest_collection_finish() -> None:
    """Leave what was imported out of all later garbage collections, which would look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def real_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the commands of this test by the interpreter."""
    monkeypatch.setenv(FORK, "0")


@cache
def read_tensors(name: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(GOLDENS / f"{name}.safetensors")


@cache
def read_table(name: str) -> dict[str, Any]:
    return json.loads((GOLDENS / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def tensors() -> Callable[[str], dict[str, Tensor]]:
    """Return a function that reads goldens/<name>.safetensors; the tensors are shared and must not be changed."""
    return read_tensors


@pytest.fixture(scope="session")
def table() -> Callable[[str], dict[str, Any]]:
    """Return a function that reads goldens/<name>.json; the result is shared and must not be changed."""
    return read_table


@pytest.fixture(scope="session")
def golden_weights() -> Callable[[str], dict[str, Tensor]]:
    """Return a function from a golden model's name to its weights, named as in its network.

    Names are those of g2, or dit and unett for models with a Gaussian head.
    """

    def weights(name: str) -> dict[str, Tensor]:
        file, prefix = ("g2_gaussian_head", f"{name}.w.") if name in GAUSSIAN else (f"g2_{name}", "w.")
        named = {key.removeprefix(prefix): value for key, value in read_tensors(file).items() if key.startswith(prefix)}
        return {key: value.float() for key, value in named.items()}

    return weights


@pytest.fixture(scope="session")
def golden_model(golden_weights) -> Callable[..., CFM]:
    """Return a function that builds a model with the weights of a golden one.

    Names are those of g2, or dit and unett for models with a Gaussian head.
    """

    def model(name: str, **changes: bool) -> CFM:
        from f5_tts.model.cfm import CFM

        backbone, arch = golden_arch(name)
        transformer = backbone(replace(arch, **changes), MEL_BINS, TOKENS, gaussian=name in GAUSSIAN)
        cfm = CFM(transformer)  # initializes the Gaussian head, so weights are loaded after it
        transformer.load_state_dict(golden_weights(name))
        return cfm

    return model


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Return overrides for a tiny model on the shipped data, with four updates, of which every second one is saved."""
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


def process_state() -> dict[str, Any]:
    """Collect the process state that a library may change."""
    import numpy as np
    import torch

    root = logging.getLogger()
    return {
        "python": random.getstate(),
        "numpy": repr(np.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "logging": (root.level, list(root.handlers), root.disabled),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "path": list(sys.path),
    }


@pytest.fixture(scope="session")
def states_around_import() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the process state before and after the first import of funasr, as the package imports it."""
    from f5_tts.rewards.asr.funasr_model import import_funasr
    from f5_tts.rewards.asr.preserve_state import preserve_process_state

    before = process_state()
    with preserve_process_state():
        import_funasr()
    return before, process_state()


def golden_arch(name: str) -> tuple[type[DiT] | type[UNetT], ArchConfig]:
    """Return the class and the architecture of a golden model."""
    from tests.tiny import tiny_arch

    from f5_tts.model.build import BACKBONES

    result = read_table("g2_gaussian_head" if name in GAUSSIAN else "g2_configs")[name]
    sizes = {"text_dim": None, "conv_layers": 0} | result["kwargs"]
    assert (sizes.pop("mel_dim"), sizes.pop("text_num_embeds")) == (MEL_BINS, TOKENS)
    return BACKBONES[result["backbone"]], tiny_arch(**sizes)
