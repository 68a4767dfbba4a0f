"""Vocos vocoder: log-mel to waveform by a network, key-compatible with the published vocos-mel-24khz."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu

from f5_tts.config.schema import MelSpecConfig
from f5_tts.download.hub import download_from_hub
from f5_tts.download.source import endpoint
from f5_tts.files import get_nested, read_yaml
from f5_tts.model.backbones.layers import mask_frames
from f5_tts.model.checkpoint import mismatches
from f5_tts.model.safe_load import read_tensors
from f5_tts.model.vocoders.decode import DecodesMel

REPOSITORY = "charactr/vocos-mel-24khz"  # on the Hugging Face hub
CONFIG, WEIGHTS = "config.yaml", "pytorch_model.bin"
SUPPORTED_CONFIG = {
    "feature_extractor.class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
    "feature_extractor.init_args.padding": "center",
    "backbone.class_path": "vocos.models.VocosBackbone",
    "head.class_path": "vocos.heads.ISTFTHead",
    "head.init_args.padding": "center",
}  # the only supported kind of Vocos, by keys of its config.yaml
SHARED_KEYS = (
    ("feature_extractor.init_args.sample_rate", "target_sample_rate"),
    ("feature_extractor.init_args.n_fft", "n_fft"),
    ("feature_extractor.init_args.n_fft", "win_length"),
    ("feature_extractor.init_args.hop_length", "hop_length"),
    ("feature_extractor.init_args.n_mels", "n_mel_channels"),
    ("backbone.init_args.input_channels", "n_mel_channels"),
    ("head.init_args.n_fft", "n_fft"),
    ("head.init_args.hop_length", "hop_length"),
)  # keys of config.yaml that must equal keys of model.mel_spec
SIZES = ("dim", "intermediate_dim", "num_layers")  # keys under backbone.init_args that only config.yaml holds
FEATURE_EXTRACTOR = "feature_extractor."  # prefix of the mel's weights, which are not loaded
MAX_MAGNITUDE = 1e2  # maximum magnitude of a bin


class Vocos(DecodesMel):
    """Vocos vocoder: a ConvNeXt predicts the waveform's spectra from log-mels (Siuzdak 2023, arXiv 2306.00814).

    Gradients flow to the mel. An item's waveform does not depend on the other items of its batch.
    """

    is_differentiable = True

    def __init__(self, mel_spec: MelSpecConfig, dim: int, intermediate_dim: int, num_layers: int):
        super().__init__()
        self.backbone = VocosBackbone(mel_spec.n_mel_channels, dim, intermediate_dim, num_layers)
        self.head = VocosHead(mel_spec, dim)

    def forward(self, mel: Float[Tensor, "b n d"], lens: Int[Tensor, " b"]) -> list[Float[Tensor, " nw"]]:
        """Synthesize one waveform per item, of hop * (len - 1) samples.

        A waveform extends from the center of its first frame to the center of its last. Frames past an item's length
        are not read. The audio is float32 on the mel's device, not clipped.

        Raises:
            ValueError: a log-mel holds NaN or infinite values.
        """
        self.to(mel.device)
        frames = torch.arange(mel.shape[1], device=mel.device) < lens[:, None]
        mel = mask_frames(mel.float(), frames)
        if not mel.isfinite().all():
            raise ValueError("a log-mel cannot be converted to audio: it holds NaN or infinite values")
        spectra = self.head(self.backbone(mel, frames))
        return [self.head.istft(spectrum[:, :n]) for spectrum, n in zip(spectra, lens.tolist(), strict=True)]


class VocosBackbone(nn.Module):
    """Network from a log-mel to features, one vector per frame."""

    def __init__(self, num_bins: int, dim: int, intermediate_dim: int, num_layers: int):
        super().__init__()
        self.embed = nn.Conv1d(num_bins, dim, 7, padding=3)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.convnext = nn.ModuleList(VocosBlock(dim, intermediate_dim) for _ in range(num_layers))
        self.final_layer_norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, mel: Float[Tensor, "b n d"], frames: Bool[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Compute the features; `frames` is False on padding, where `mel` is zero and the result is undefined."""
        x = self.norm(per_frame(self.embed, mel))
        for block in self.convnext:
            x = block(x, frames)
        return self.final_layer_norm(x)


class VocosBlock(nn.Module):
    """ConvNeXt block: a depthwise convolution over 7 frames and a perceptron per frame, with a scaled residual."""

    def __init__(self, dim: int, intermediate_dim: int):
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, intermediate_dim)
        self.pwconv2 = nn.Linear(intermediate_dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "b n c"], frames: Bool[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        """Compute the block's output, with the residual added."""
        mixed = self.norm(per_frame(self.dwconv, mask_frames(x, frames)))
        return x + self.gamma * self.pwconv2(gelu(self.pwconv1(mixed)))


class VocosHead(nn.Module):
    """Output layer from features to complex spectra, by log-magnitude and phase."""

    def __init__(self, mel_spec: MelSpecConfig, dim: int):
        super().__init__()
        self.out = nn.Linear(dim, mel_spec.n_fft + 2)
        self.istft = InverseSTFT(mel_spec)

    def forward(self, x: Float[Tensor, "b n c"]) -> Complex[Tensor, "b f n"]:
        """Compute the spectra; magnitudes are clamped to 100."""
        log_magnitude, phase = self.out(x).float().transpose(1, 2).chunk(2, dim=1)
        return torch.polar(log_magnitude.clamp(max=math.log(MAX_MAGNITUDE)).exp(), phase)


class InverseSTFT(nn.Module):
    """Inverse short-time Fourier transform of one spectrum; its window is among the published weights."""

    window: Tensor

    def __init__(self, mel_spec: MelSpecConfig):
        super().__init__()
        self.n_fft, self.hop = mel_spec.n_fft, mel_spec.hop_length
        self.register_buffer("window", torch.hann_window(mel_spec.n_fft))

    def forward(self, spectrum: Complex[Tensor, "f n"]) -> Float[Tensor, " nw"]:
        """Compute the waveform of hop * (n - 1) samples; one frame, which torch refuses, gives none."""
        if spectrum.shape[1] < 2:
            return self.window.new_zeros(0)
        return torch.istft(spectrum, self.n_fft, self.hop, window=self.window, center=True)


def per_frame(conv: nn.Conv1d, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n k"]:
    """Apply a convolution over frames to features with channels last."""
    return conv(x.transpose(1, 2)).transpose(1, 2)


# --- loading from a folder or the hub ---


def fetch_vocos() -> Path:
    """Return the folder of the published vocoder, after a download if it is not in the hub's local cache.

    Raises:
        FileNotFoundError: the download failed; the message says how to install the files by hand.
    """
    try:
        config, _ = (download_from_hub(REPOSITORY, name) for name in (CONFIG, WEIGHTS))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the vocoder's {error}: {download_steps()}") from error
    return config.parent


def download_steps() -> str:
    """Say how to get the vocoder's files by hand, and what to use instead."""
    return (
        f"put {CONFIG} and {WEIGHTS} of {endpoint()}/{REPOSITORY} into a folder and add model.vocoder.is_local=true "
        "model.vocoder.local_path=FOLDER; or use model.vocoder.name=griffin_lim, which needs no weights"
    )


def read_vocos(folder: Path, mel_spec: MelSpecConfig) -> Vocos:
    """Read the vocoder in a folder, with frozen weights.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or the vocoder was made for other mels.
    """
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"no {' and no '.join(missing)} in the vocoder's folder {folder}: {download_steps()}")
    vocos = Vocos(mel_spec, **read_sizes(folder / CONFIG, mel_spec))
    load_tensors(vocos, folder / WEIGHTS)
    return vocos.eval().requires_grad_(False)


def read_sizes(path: Path, mel_spec: MelSpecConfig) -> dict[str, int]:
    """Read the network's sizes from a config.yaml.

    Raises:
        ValueError: the file describes a network that is not supported, or one for other mels than `mel_spec`.
    """
    config = read_yaml(path)
    for key, supported in SUPPORTED_CONFIG.items():
        if (actual := get_nested(config, key)) != supported:
            raise ValueError(
                f"{path} has {key}={actual}; the vocoder built in is that of {REPOSITORY}, {key}={supported}"
            )
    for key, name in SHARED_KEYS:
        if (actual := get_nested(config, key)) != (expected := getattr(mel_spec, name)):
            raise ValueError(
                f"{path} has {key}={actual}, the run model.mel_spec.{name}={expected}, and a vocoder converts only the "
                "mels it was trained on: use one for these with model.vocoder.local_path, or "
                "model.vocoder.name=griffin_lim"
            )
    sizes = {name: get_nested(config, f"backbone.init_args.{name}") for name in SIZES}
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{path} has backbone.init_args.{name}={size}; it is a whole number, 1 or more")
    return sizes


def load_tensors(vocos: Vocos, path: Path) -> None:
    """Load a file's weights strictly, without those of its mel; raise ValueError with the first tensors that differ."""
    weights = {name: value for name, value in read_tensors(path).items() if not name.startswith(FEATURE_EXTRACTOR)}
    mismatched = mismatches(vocos.state_dict(), weights)
    if mismatched:
        raise ValueError(
            f"{path} is not what its {CONFIG} describes ({len(mismatched)} tensors differ; "
            f"{'; '.join(mismatched[:3])}): both should come from the same source, such as "
            f"{endpoint()}/{REPOSITORY}"
        )
    vocos.load_state_dict(weights)
