"""Small stand-ins for what the guide downloads from model hubs, with random weights and the shipped speech."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Audio, Dataset
from safetensors.torch import save
from tests.rewards import sensevoice, wespeaker
from tests.tiny import PUBLISHED_MEL

from f5_tts.config.load import compose_config
from f5_tts.config.schema import TrainConfig
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.model.build import build_model
from f5_tts.model.vocoders import vocos
from f5_tts.scripts import fetch_reward_asr_model, fetch_reward_spk_model

ROOT = Path(__file__).parents[2]
VOCODER = {"dim": 16, "intermediate_dim": 32, "num_layers": 1}
Files = dict[str, bytes]


def repositories(arch: list[str], work: Path) -> dict[tuple[str, str], Files]:
    """Return all repositories of the hub by name and branch; `arch` configures the base model's network."""
    return {
        ("SWivid/F5-TTS", "main"): {"F5TTS_v1_Base/model_1250000.safetensors": base_model(arch)},
        (vocos.REPOSITORY, "main"): vocoder(work / "vocos"),
        (fetch_reward_asr_model.REPOSITORY, "main"): files_of(sensevoice.make_directory(work / "asr")),
        (fetch_reward_spk_model.REPOSITORY, "main"): files_of(wespeaker.make_directory(work / "spk", m_channels=8)),
    }


def files_of(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def base_model(arch: list[str]) -> bytes:
    """Build a base model as published: EMA weights with their counters, and no Gaussian head.

    Layers that start at zero get random weights, since a trained model has none that are zero.
    """
    cfg = compose_config("F5TTS_v1_Base", arch, TrainConfig)
    torch.manual_seed(0)
    weights = build_model(cfg.model, build_vocabulary(cfg)).state_dict()
    drawn = {name: value if value.any() else 0.02 * torch.randn_like(value) for name, value in weights.items()}
    named = {f"ema_model.{name}": value for name, value in drawn.items()}
    return save(named | {"initted": torch.tensor(True), "step": torch.tensor(1_250_000)})


def vocoder(folder: Path) -> Files:
    folder.mkdir()
    mel = PUBLISHED_MEL
    shared = {"n_fft": mel.n_fft, "hop_length": mel.hop_length, "padding": "center"}
    front: dict[str, Any] = shared | {"sample_rate": mel.target_sample_rate, "n_mels": mel.n_mel_channels}
    config = {
        "feature_extractor": {"class_path": "vocos.feature_extractors.MelSpectrogramFeatures", "init_args": front},
        "backbone": {
            "class_path": "vocos.models.VocosBackbone",
            "init_args": {"input_channels": mel.n_mel_channels} | VOCODER,
        },
        "head": {"class_path": "vocos.heads.ISTFTHead", "init_args": shared | {"dim": VOCODER["dim"]}},
    }
    (folder / vocos.CONFIG).write_text(yaml.safe_dump(config), encoding="utf-8")
    torch.manual_seed(0)
    torch.save(vocos.Vocos(mel, **VOCODER).state_dict(), folder / vocos.WEIGHTS)
    return files_of(folder)


def write_librispeech(folder: Path, num: int = 10) -> None:
    """Write a data set with the columns of hf-internal-testing/librispeech_asr_dummy and embedded audio."""
    lines = (ROOT / "data/mini_custom/dev.jsonl").read_text("utf-8").splitlines()[:num]
    rows = [row_of(index, json.loads(line)) for index, line in enumerate(lines)]
    folder.mkdir(parents=True)
    table = Dataset.from_list(rows).cast_column("audio", Audio(sampling_rate=16_000))
    table.to_parquet(folder / "validation-00000-of-00001.parquet")


def row_of(place: int, item: dict[str, Any]) -> dict[str, Any]:
    path = ROOT / item["prompt_audio"]
    return {
        "file": path.name,
        "audio": {"bytes": path.read_bytes(), "path": path.name},
        "text": item["prompt_text"].upper(),
        "speaker_id": 1272,
        "chapter_id": 128104,
        "id": f"1272-128104-{place:04d}",
    }
