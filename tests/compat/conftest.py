"""A tiny random model of the kind F5TTS_v1_Base with its vocoder, in files as they are published."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from f5_tts.api import F5TTS

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "data/mini_custom/wavs/test_00_test_prompt_1.flac"
SAID = "seven two four"
RATE, HOP, BINS = 24_000, 256, 100
STEPS = 2  # solver steps, for speed


@dataclass(frozen=True)
class Published:
    """Files of a published model, and the sizes of its network as programs write them."""

    ckpt: str
    vocab: str
    vocoder: str
    config: str  # YAML file with a section model
    sizes: dict[str, Any]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    from tests.e2e.published import base_model, vocoder
    from tests.tiny import SIZES

    folder = tmp_path_factory.mktemp("published")
    vocoder(folder / "vocos")
    (folder / "model_1250000.safetensors").write_bytes(base_model([f"model.arch.{k}={v}" for k, v in SIZES.items()]))
    lines = "".join(f"    {key}: {value}\n" for key, value in SIZES.items())
    (folder / "tiny.yaml").write_text(
        f"model:\n  name: Tiny\n  tokenizer: pinyin\n  arch:\n{lines}infer:\n  nfe_step: {STEPS}\n"
    )
    return Published(
        ckpt=str(folder / "model_1250000.safetensors"),
        vocab=str(files("f5_tts").joinpath("infer/examples/vocab.txt")),  # as programs write it
        vocoder=str(folder / "vocos"),
        config=str(folder / "tiny.yaml"),
        sizes={key: value for key, value in SIZES.items() if key not in ("dim_head", "dropout")} | {"dim_head": 16},
    )


@pytest.fixture(scope="session")
def tts(published: Published) -> F5TTS:
    """Load the model once, on the CPU, by our own interface: what every program has to agree with."""
    from f5_tts.api import F5TTS

    return F5TTS(published.config, published.ckpt, published.vocab, vocoder_local_path=published.vocoder, device="cpu")


@pytest.fixture(scope="session")
def expected(tts: F5TTS) -> tuple[Any, ...]:
    """Return the speech of TEXT with seed 7 by our own interface."""
    from tests.compat.speech import TEXT

    return tts.infer(RECORDING, SAID, TEXT, seed=7)


@pytest.fixture(autouse=True)
def vocoder_of_the_hub(monkeypatch: pytest.MonkeyPatch, published: Published) -> None:
    """Let programs that name no vocoder find the tiny one where they would find the published one."""
    monkeypatch.setattr("f5_tts.model.build.fetch_vocos", lambda: Path(published.vocoder))
