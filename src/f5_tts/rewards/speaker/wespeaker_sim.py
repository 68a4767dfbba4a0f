"""Speaker similarity by a published WeSpeaker ResNet34.

Only `config.yaml` and `avg_model.pt` of the model folder are used. The package wespeaker is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from f5_tts.files import get_nested, read_yaml
from f5_tts.model.build import find_device
from f5_tts.model.checkpoint import mismatches
from f5_tts.model.safe_load import check_tensors, read_file
from f5_tts.rewards.audio import ASR_RATE
from f5_tts.rewards.speaker.fbank import FRAME, SHIFT, kaldi_fbank
from f5_tts.rewards.speaker.resnet import DOWNSAMPLING, ResNet34
from f5_tts.rewards.speaker.similarity_reward import SpeakerSimilarityReward

CONFIG, WEIGHTS = "config.yaml", "avg_model.pt"
HOME = "WESPEAKER_HOME"  # environment variable of the package wespeaker
# folders of the model inside it; the package itself creates the last
HOME_SUBDIRS = (".", "cnceleb_resnet34", "chinese")
FETCH_DIR = "checkpoints/wespeaker/cnceleb_resnet34"
FETCH_COMMAND = f"f5-tts fetch speaker --cache_dir {FETCH_DIR}"
FETCH_HINT = f"run: {FETCH_COMMAND} and set config.model_dir to {FETCH_DIR}/cnceleb_resnet34"
MODEL_HINT = f"use cnceleb_resnet34: {FETCH_COMMAND}"

# model_args and their defaults; m_channels is this project's addition, for small models
DEFAULT_ARGUMENTS = {
    "feat_dim": None,
    "embed_dim": None,
    "m_channels": 32,
    "pooling_func": "TSTP",
    "two_emb_layer": False,
}
FEATURE_ARGUMENTS = {
    "resample_rate": ASR_RATE,
    "fbank_args.frame_length": 1000 * FRAME // ASR_RATE,
    "fbank_args.frame_shift": 1000 * SHIFT // ASR_RATE,
    "cmvn": True,
    "cmvn_args.norm_mean": True,
    "cmvn_args.norm_var": False,
}  # dataset_args, in Hz and ms; without dither, which would make scores random
SCALE = 32768.0  # published models were trained on 16-bit samples
WRAPPERS = ("model", "state_dict")  # keys under which a file may hold its weights
TRAINING_KEYS = "projection."  # prefix of the tensors that only training uses
MAX_BATCH = 4  # clips per batch; CPU s per clip of 5 s, one thread: 1 0.33, 2 0.31, 4 0.32, 8 0.32-0.36, 16 0.39


class WespeakerSim(SpeakerSimilarityReward):
    """Cosine similarity of the speaker embeddings of a clip and its reference, in [-1, 1].

    WeSpeaker itself reports (cosine + 1) / 2. Loudness and padding do not change the score. See
    `SpeakerSimilarityReward`.
    """

    takes = "wave"
    num_parameters = 6_630_000

    def __init__(self, model_dir: str | None = None, device: str = "cpu"):
        """Load the model from a folder with config.yaml and avg_model.pt; None: from $WESPEAKER_HOME."""
        super().__init__()
        self.device = find_device(device, "wespeaker_sim: config.device")
        network = read_resnet(model_folder(model_dir)).to(self.device)
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @staticmethod
    def loss_mib(seconds: float, num_clips: int) -> float:
        """Return the memory of the loss of clips of this length (s), forward and backward, in MiB: one at a time."""
        return 34.9 * seconds

    def encode(self, clips: list[Tensor]) -> Float[Tensor, "b e"]:
        """Compute embeddings in batches of clips of similar length."""
        with torch.autocast(self.device.type, enabled=False):
            features = [self.features(clip) for clip in clips]
            order = sorted(range(len(clips)), key=lambda i: len(features[i]))  # similar lengths need little padding
            batches = [order[i : i + MAX_BATCH] for i in range(0, len(order), MAX_BATCH)]
            vectors = torch.cat([self.network(*pad_features([features[i] for i in batch])) for batch in batches])
        return vectors[torch.tensor(order).argsort()]

    def features(self, clip: Float[Tensor, " nw"]) -> Float[Tensor, "n d"]:
        """Compute log-mel bands with zero mean over the clip."""
        bands = kaldi_fbank(clip.to(self.network.conv1.weight) * SCALE, self.network.feat_dim)
        return bands - bands.mean(dim=0)


def pad_features(features: Sequence[Tensor]) -> tuple[Float[Tensor, "b n d"], Int[Tensor, " b"]]:
    """Pad features into one batch with zeros; return it with the lengths in frames."""
    batch = pad_sequence(list(features), batch_first=True)
    return batch, torch.tensor([len(item) for item in features], device=batch.device)


# --- model folder ---


def model_folder(model_dir: str | None) -> Path:
    """Return the folder with both files; raise FileNotFoundError with the paths tried and the fetch command."""
    if model_dir is None:
        return folder_in_home(os.environ.get(HOME))
    folder = Path(model_dir).expanduser()
    if not (missing_files := missing(folder)):
        return folder
    candidates = [path for path in sorted(folder.glob("*/")) if not missing(path)]
    advice = f"they are in {candidates[0]}: give that folder" if candidates else FETCH_HINT
    raise FileNotFoundError(
        f"wespeaker_sim: no {' and no '.join(missing_files)} in config.model_dir={model_dir}; {advice}"
    )


def folder_in_home(home: str | None) -> Path:
    """Find the model folder inside $WESPEAKER_HOME; raise FileNotFoundError if there is none."""
    for name in HOME_SUBDIRS if home else ():
        if not missing(folder := Path(home or "").expanduser() / name):
            return folder
    state = f"={home} holds no model, nor its {' or '.join(HOME_SUBDIRS[1:])}" if home else " is not set either"
    raise FileNotFoundError(f"wespeaker_sim: config.model_dir is not set, and {HOME}{state}; {FETCH_HINT}")


def missing(folder: Path) -> list[str]:
    """List the model files that a folder does not have."""
    return [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]


def read_resnet(folder: Path) -> ResNet34:
    """Load the network of a folder with frozen weights; raise ValueError for damaged or other files."""
    with torch.device("meta"):  # the file has the weights; random initial ones would change the random state
        network = ResNet34(**read_arguments(folder / CONFIG))
    load_tensors(network, folder / WEIGHTS)
    return network.eval().requires_grad_(False)


def read_arguments(path: Path) -> dict[str, Any]:
    """Read the arguments of ResNet34 from a config.yaml.

    Raises ValueError for another network or for other features.
    """
    config = read_yaml(path)
    check_kind(config, path)
    arguments = DEFAULT_ARGUMENTS | get_nested(config, "model_args")
    check_arguments(arguments, path)
    check_features(config, arguments["feat_dim"], path)
    return {name: value for name, value in arguments.items() if name != "pooling_func"}


def check_kind(config: Any, path: Path) -> None:
    """Raise ValueError unless a config describes a ResNet34 on filter-bank features."""
    if (frontend := get_nested(config, "dataset_args.frontend")) not in (None, "fbank"):
        raise ValueError(
            f"{path} has dataset_args.frontend: {frontend}; WeSpeaker reward loading is fbank-only. Other frontends "
            "need WeSpeaker itself and s3prl, whisper or peft, in a provider of yours (name: module:attribute); or "
            f"switch to an fbank model; {MODEL_HINT}"
        )
    if (model := get_nested(config, "model")) != "ResNet34":
        raise ValueError(f"{path} has model: {model}; of WeSpeaker's networks ResNet34 alone is built in; {MODEL_HINT}")
    if not isinstance(get_nested(config, "model_args"), dict):
        raise ValueError(f"{path} has no section model_args with feat_dim and embed_dim; {MODEL_HINT}")


def check_arguments(arguments: dict[str, Any], path: Path) -> None:
    """Raise ValueError for unknown or invalid model_args."""
    if unknown := [str(name) for name in arguments if name not in DEFAULT_ARGUMENTS]:
        raise ValueError(
            f"{path} has model_args {', '.join(unknown)}; known are {', '.join(DEFAULT_ARGUMENTS)}; {MODEL_HINT}"
        )
    for name, (fits, description) in ALLOWED.items():
        if not fits(arguments[name]):
            raise ValueError(f"{path} has model_args.{name}: {arguments[name]}; it must be {description}; {MODEL_HINT}")


def is_size(value: Any) -> bool:
    """Check whether a value is a positive integer."""
    return type(value) is int and value > 0


ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "feat_dim": (lambda value: is_size(value) and value % DOWNSAMPLING == 0, f"a multiple of {DOWNSAMPLING}"),
    "embed_dim": (is_size, "a whole number, 1 or more"),
    "m_channels": (is_size, "a whole number, 1 or more"),
    "pooling_func": (lambda value: value == "TSTP", "TSTP, the one that is built in"),
    "two_emb_layer": (lambda value: isinstance(value, bool), "true or false"),
}


def check_features(config: Any, num_bins: int, path: Path) -> None:
    """Raise ValueError if a network was trained on other features than those computed here.

    A missing key means that the feature is the same.
    """
    for key, expected in {**FEATURE_ARGUMENTS, "fbank_args.num_mel_bins": num_bins}.items():
        if (actual := get_nested(config, f"dataset_args.{key}")) not in (None, expected):
            raise ValueError(
                f"{path} has dataset_args.{key}: {actual}, but features are computed with {expected} here; {MODEL_HINT}"
            )


def load_tensors(network: ResNet34, path: Path) -> None:
    """Load the weights of a file strictly, without those that only training used.

    Raises ValueError with the first tensors that differ.
    """
    content = read_file(path)
    for name in WRAPPERS:
        content = content.get(name, content) if isinstance(content, dict) else content
    check_tensors(content, path)
    weights = {name: value.float() for name, value in content.items() if not name.startswith(TRAINING_KEYS)}
    mismatched = mismatches(network.state_dict(), weights)
    mismatched = mismatched or [
        f"{name} is not finite" for name, value in weights.items() if not value.isfinite().all()
    ]
    if mismatched:
        raise ValueError(
            f"{path} is not what its {CONFIG} describes ({len(mismatched)} tensors differ; "
            f"{'; '.join(mismatched[:3])}): both should come from the same source; {MODEL_HINT}"
        )
    network.load_state_dict(weights, assign=True)  # assign keeps the batch counts, which averaging has made fractions
