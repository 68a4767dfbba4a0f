from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tests.infer.test_whisper import CLIP

from f5_tts.data.audio import load_audio
from f5_tts.infer import recognizer
from f5_tts.rewards.asr.whisper import WEIGHTS, weights_folder


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with an empty cache of the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.slow
def test_a_whisper_of_the_hubs_cache_is_used_and_the_largest_of_many_languages_first(empty_cache: Path):
    sizes = {"small": 30, "tiny": 20, "medium.en": 99, "tiny.en": 10}
    snapshots = {name: empty_cache / f"models--Systran--faster-whisper-{name}" / "snapshots" / "a1" for name in sizes}
    for name, size in sizes.items():
        snapshots[name].mkdir(parents=True)
        (snapshots[name] / "model.bin").write_bytes(b"0" * size)
    for name in ("small", "tiny", "medium.en"):
        assert recognizer.cached_weights() == snapshots[name]
        shutil.rmtree(snapshots[name])
    shutil.rmtree(snapshots["tiny.en"])
    shutil.copytree(weights_folder(WEIGHTS), snapshots["tiny.en"])
    heard = recognizer.transcribe(load_audio(CLIP, 24_000), 24_000, "English")
    assert any(digit in heard.lower() for digit in ("7", "seven"))
    with pytest.raises(ValueError, match="language=fr cannot be transcribed"):
        recognizer.transcribe(load_audio(CLIP, 24_000), 24_000, "fr")


def test_sensevoice_is_used_where_it_is_and_knows_five_languages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Heard:
        def transcribe(self, clips: list[torch.Tensor], rate: int, languages: list[str]) -> list[str]:
            return [f" {languages[0]} at {rate}"]

    monkeypatch.setattr(recognizer, "sensevoice", Heard)
    (tmp_path / recognizer.DEFAULT_DIRECTORY).mkdir(parents=True)
    assert recognizer.transcribe(torch.ones(9), 8_000) == "auto at 8000"
    assert recognizer.transcribe(torch.ones(9), 8_000, "Japanese") == "ja at 8000"
    with pytest.raises(
        ValueError, match="language=fr cannot be transcribed: SenseVoiceSmall knows zh, en, yue, ja, ko"
    ):
        recognizer.transcribe(torch.ones(9), 8_000, "fr")
