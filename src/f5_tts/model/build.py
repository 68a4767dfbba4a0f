"""`model` section of a config -> model, vocoder."""

from __future__ import annotations

from f5_tts.config import ModelConfig
from f5_tts.data.text import Vocabulary
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.backbones.unett import UNetT
from f5_tts.model.cfm import CFM
from f5_tts.model.griffin_lim import GriffinLim

BACKBONES: dict[str, type[DiT] | type[UNetT]] = {"DiT": DiT, "UNetT": UNetT}


def build_model(model: ModelConfig, vocabulary: Vocabulary) -> CFM:
    """A model with random weights; the Gaussian head says model.ln_sigma_init everywhere."""
    backbone = BACKBONES[model.backbone]
    mel_dim, gaussian = model.mel_spec.n_mel_channels, model.output_dist == "gaussian"
    transformer = backbone(model.arch, mel_dim, len(vocabulary), gaussian=gaussian)
    return CFM(transformer, model.ln_sigma_init)


def build_vocoder(model: ModelConfig) -> GriffinLim:
    """Griffin-Lim, and only where the config asks for it."""
    if model.vocoder.name != "griffin_lim":
        raise ValueError(
            f"model.vocoder.name={model.vocoder.name} comes with a later release; until then use griffin_lim"
        )
    return GriffinLim(model.mel_spec, model.vocoder.iterations)
