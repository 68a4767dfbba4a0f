"""Construction of the model and the vocoder from the `model` section of a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from f5_tts.config.schema import ModelConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.backbones.unett import UNetT
from f5_tts.model.cfm import CFM
from f5_tts.model.vocoders.griffin_lim import GriffinLim
from f5_tts.model.vocoders.vocos import Vocos, fetch_vocos, read_vocos

ACCELERATORS: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "xpu": torch.xpu.is_available,
    "mps": torch.backends.mps.is_available,
}  # kind of device, in the order in which they are taken -> whether this machine has one
BACKBONES: dict[str, type[DiT] | type[UNetT]] = {"DiT": DiT, "UNetT": UNetT}


def build_model(model: ModelConfig, vocabulary: Vocabulary) -> CFM:
    """Build a model with random weights; a Gaussian head outputs model.ln_sigma_init everywhere.

    Raises:
        ValueError: model.sample_from_dist is true and the model has no Gaussian head.
    """
    backbone = BACKBONES[model.backbone]
    mel_dim, gaussian = model.mel_spec.n_mel_channels, model.output_dist == "gaussian"
    if model.sample_from_dist and not gaussian:
        raise ValueError(
            "model.sample_from_dist=true samples from a Gaussian head, and this checkpoint has none: set it to false, "
            "or use a checkpoint of stage 1 or 2"
        )
    transformer = backbone(model.arch, mel_dim, len(vocabulary), gaussian=gaussian)
    return CFM(
        transformer,
        model.ln_sigma_init,
        model.sample_from_dist,
        mel_spec_kwargs=asdict(model.mel_spec),
        vocab_char_map=None if vocabulary.tokenizer == "byte" else vocabulary.ids,
    )


def build_vocoder(model: ModelConfig) -> GriffinLim | Vocos:
    """Build the vocoder that model.vocoder names; there is no fallback to another one.

    Raises:
        FileNotFoundError: its weights are missing.
        ValueError: its weights are damaged, or it was made for other mels than model.mel_spec.
    """
    vocoder, mel_spec = model.vocoder, model.mel_spec
    if vocoder.name == "griffin_lim":
        return GriffinLim(mel_spec, vocoder.iterations)
    if mel_spec.mel_spec_type != "vocos":
        raise ValueError(
            f"model.vocoder.name={vocoder.name} cannot convert mels of "
            f"model.mel_spec.mel_spec_type={mel_spec.mel_spec_type}, and BigVGAN's decoder is not built in; vocos mels "
            "need vocos or griffin_lim, bigvgan mels griffin_lim: use model.vocoder.name=griffin_lim"
        )
    folder = Path(vocoder.local_path) if vocoder.local_path else fetch_vocos()
    return read_vocos(folder, mel_spec)


def default_device(accelerators: Mapping[str, Callable[[], bool]] = ACCELERATORS) -> torch.device:
    """Return the first kind of accelerator that this machine has, else the CPU."""
    return torch.device(next((kind for kind, is_available in accelerators.items() if is_available()), "cpu"))


def find_device(name: str | None, key: str | None = None) -> torch.device:
    """Return the device of this name; None and "auto" mean the one that `default_device` chooses.

    Raises ValueError if it cannot be used, before a library falls back to another one; `key` is the config key, for
    messages.
    """
    if name in (None, "auto"):
        return default_device()
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: torch was built without CUDA
        reason = str(error).partition("\n")[0]
        setting = f"device {name}" if key is None else f"{key}={name}"
        advice = f"leave it out, or say cpu, {', '.join(ACCELERATORS)}" if key is None else "cpu always works"
        raise ValueError(f"{setting} cannot be used here ({reason}); {advice}") from error
    return device
