from __future__ import annotations

from functools import partial
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import yaml

from f5_tts.config.load import compose_config
from f5_tts.config.schema import ConfigError, TrainConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.model.build import ACCELERATORS, build_model, build_vocoder, default_device, find_device
from f5_tts.model.vocoders.griffin_lim import GriffinLim
from f5_tts.model.vocoders.vocos import CONFIG, WEIGHTS, Vocos


def vocoder(*overrides: str) -> GriffinLim | Vocos:
    keys = [f"model.{override}" for override in overrides]
    return build_vocoder(compose_config("F5TTS_v1_Base", keys, TrainConfig).model)


@pytest.fixture
def published(tmp_path) -> Path:
    """Write a folder like the published one, with two narrow layers."""
    config = """
        feature_extractor:
          class_path: vocos.feature_extractors.MelSpectrogramFeatures
          init_args: {sample_rate: 24000, n_fft: 1024, hop_length: 256, n_mels: 100, padding: center}
        backbone:
          class_path: vocos.models.VocosBackbone
          init_args: {input_channels: 100, dim: 8, intermediate_dim: 12, num_layers: 2}
        head:
          class_path: vocos.heads.ISTFTHead
          init_args: {dim: 8, n_fft: 1024, hop_length: 256, padding: center}
    """
    (tmp_path / CONFIG).write_text(config)
    sizes = yaml.safe_load(config)["backbone"]["init_args"]
    mel_spec = compose_config("F5TTS_v1_Base", [], TrainConfig).model.mel_spec
    network = Vocos(mel_spec, sizes["dim"], sizes["intermediate_dim"], sizes["num_layers"])
    torch.save(network.state_dict(), tmp_path / WEIGHTS)
    return tmp_path


def test_vocos_in_a_folder_speaks(published):
    built = vocoder("vocoder.is_local=true", f"vocoder.local_path={published}")
    assert isinstance(built, Vocos)
    (wave,) = built(torch.zeros(1, 5, 100), torch.tensor([5]))
    assert wave.shape == (4 * 256,)


def test_griffin_lim_is_built_where_it_is_asked_for_with_its_rounds():
    built = vocoder("vocoder.name=griffin_lim", "vocoder.iterations=3")
    assert isinstance(built, GriffinLim) and built.iterations == 3


def test_griffin_lim_speaks_bigvgan_mels():
    built = vocoder("vocoder.name=griffin_lim", "vocoder.iterations=1", "mel_spec.mel_spec_type=bigvgan")
    (wave,) = built(torch.zeros(1, 5, 100), torch.tensor([5]))
    assert wave.shape == (5 * 256,)


def test_vocos_for_bigvgan_mels_is_refused_with_what_is_supported():
    with pytest.raises(ValueError) as error:
        vocoder("mel_spec.mel_spec_type=bigvgan")
    assert "BigVGAN's decoder is not built in; vocos mels need vocos or griffin_lim" in str(error.value)
    assert "bigvgan mels griffin_lim: use model.vocoder.name=griffin_lim" in str(error.value)


def test_vocos_for_other_mels_is_refused(published):
    with pytest.raises(ValueError, match=r"sample_rate=24000, the run model\.mel_spec\.target_sample_rate=16000"):
        vocoder("vocoder.is_local=true", f"vocoder.local_path={published}", "mel_spec.target_sample_rate=16000")


def test_without_network_vocos_from_the_hub_is_refused_and_griffin_lim_does_not_take_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded .*model\.vocoder\.local_path=FOLDER"):
        vocoder()


@pytest.mark.parametrize("drawn", [True, False])
def test_a_model_speaks_by_drawing_where_the_config_says_so(drawn: bool):
    overrides = ["output_dist=gaussian", "objective=gaussian_nll", "use_rl_head=true", "arch.depth=1"]
    overrides += [f"sample_from_dist={str(drawn).lower()}"]
    model = compose_config("F5TTS_Mini", [f"model.{override}" for override in overrides], TrainConfig).model
    assert build_model(model, Vocabulary("ab")).sample_from_dist == drawn
    model.output_dist = "deterministic"  # as synthesis sets it for a checkpoint without a Gaussian head
    if drawn:
        with pytest.raises(
            ValueError, match=r"model\.sample_from_dist=true .* this checkpoint has none: set it to false"
        ):
            build_model(model, Vocabulary("ab"))


@pytest.mark.parametrize(
    ("has", "chosen"),
    [
        (("cuda", "xpu", "mps"), "cuda"),
        (("xpu", "mps"), "xpu"),
        (("mps",), "mps"),
        ((), "cpu"),
    ],
)
def test_an_accelerator_is_chosen_in_the_order_cuda_xpu_mps_cpu(has: tuple[str, ...], chosen: str):
    probes = {kind: partial(has.__contains__, kind) for kind in ACCELERATORS}
    assert default_device(probes).type == chosen


def test_a_device_that_is_not_here_is_refused_with_those_that_may_be_named():
    with pytest.raises(ValueError, match=r"device gpu cannot be used here .*, or say cpu, cuda, xpu, mps"):
        find_device("gpu")


def test_the_decoder_of_bigvgan_is_refused_with_what_speaks_its_mels():
    with pytest.raises(ConfigError, match=r"vocoder\.name=bigvgan is not allowed.*griffin_lim speaks its mels"):
        vocoder("vocoder.name=bigvgan")
