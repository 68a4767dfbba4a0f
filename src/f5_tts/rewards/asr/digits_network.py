"""Small CTC network that recognizes digit words and phones in log-mels, and its weights file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from f5_tts.config.schema import MelSpecConfig
from f5_tts.files import write_atomically
from f5_tts.model.mel import FLOOR
from f5_tts.model.safe_load import checksum, read_tensors

# ARPAbet pronunciations
PRONUNCIATIONS = {
    "zero": "Z IH R OW",
    "one": "W AH N",
    "two": "T UW",
    "three": "TH R IY",
    "four": "F AO R",
    "five": "F AY V",
    "six": "S IH K S",
    "seven": "S EH V AH N",
    "eight": "EY T",
    "nine": "N AY N",
}
WORDS = tuple(PRONUNCIATIONS)
PHONES = tuple(sorted({phone for phones in PRONUNCIATIONS.values() for phone in phones.split()}))
WORD_LABELS = {word: label for label, word in enumerate(WORDS, start=1)}  # 0 is the CTC blank
PHONE_LABELS = {phone: label for label, phone in enumerate(PHONES, start=1)}

MEL_SPEC = MelSpecConfig(
    target_sample_rate=16_000,
    n_mel_channels=100,
    hop_length=320,
    win_length=1024,
    n_fft=1024,
    mel_spec_type="vocos",
)  # log-mels that the network reads
MEL_RANGE = (math.log(FLOOR), 6.0)  # nats; recordings reach 5.3, generated log-mels may exceed both and are clamped
INPUT_KERNEL = 5  # frames
DROPOUT = 0.1
SIZES, CHECKSUM = "sizes", "checksum"  # keys of the file's metadata
TRAIN_AGAIN = "the repository has it in pretrained/digits_ctc, and makes it by python -m recipes.digits.train_reward"


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSizes:
    """Sizes of the network, which its file states."""

    width: int  # channels
    kernel_size: int  # frames of each block's convolution, odd
    dilations: tuple[int, ...]  # dilation of each block's convolution

    def __post_init__(self) -> None:
        numbers = (self.width, self.kernel_size, *self.dilations)
        if not self.dilations or not all(isinstance(number, int) and 1 <= number <= 4096 for number in numbers):
            raise ValueError(f"sizes of a digit network must be whole numbers from 1 to 4096, got {asdict(self)}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size of a digit network must be odd, got {self.kernel_size}")


class ResidualBlock(nn.Module):
    """Residual block: LayerNorm, dilated convolution over frames, GELU, linear layer."""

    def __init__(self, sizes: NetworkSizes, dilation: int):
        super().__init__()
        width, margin = sizes.width, dilation * (sizes.kernel_size // 2)
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, sizes.kernel_size, padding=margin, dilation=dilation)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n w"], mask: Bool[Tensor, "b n 1"]) -> Float[Tensor, "b n w"]:
        """Add the block's output; the convolution sees zeros where the mask is False."""
        hidden = self.conv((self.norm(x) * mask).mT).mT
        return x + self.linear(F.gelu(hidden))


class DigitsNetwork(nn.Module):
    """Convolutional network with one CTC head for words and one for phones; one output per mel frame."""

    mean: Tensor
    std: Tensor

    def __init__(self, sizes: NetworkSizes):
        super().__init__()
        self.sizes = sizes
        self.register_buffer("mean", torch.zeros(MEL_SPEC.n_mel_channels))
        self.register_buffer("std", torch.ones(MEL_SPEC.n_mel_channels))
        self.input = nn.Conv1d(MEL_SPEC.n_mel_channels, sizes.width, INPUT_KERNEL, padding=INPUT_KERNEL // 2)
        self.blocks = nn.ModuleList(ResidualBlock(sizes, dilation) for dilation in sizes.dilations)
        self.norm = nn.LayerNorm(sizes.width)
        self.dropout = nn.Dropout(DROPOUT)
        self.words = nn.Linear(sizes.width, 1 + len(WORDS))
        self.phones = nn.Linear(sizes.width, 1 + len(PHONES))

    def forward(
        self, mel: Float[Tensor, "b n d"], lens: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b n kw"], Float[Tensor, "b n kp"]]:
        """Compute the log-probabilities of the word labels and of the phone labels; padding changes no result."""
        mask = (torch.arange(mel.shape[1], device=mel.device) < lens[:, None])[..., None]
        normalized = (mel.clamp(*MEL_RANGE) - self.mean) / self.std
        x = self.input(normalized.masked_fill(~mask, 0.0).mT).mT
        for block in self.blocks:
            x = block(x, mask)
        x = self.dropout(self.norm(x))
        return self.words(x).log_softmax(dim=-1), self.phones(x).log_softmax(dim=-1)


def word_labels(words: Sequence[str]) -> list[int]:
    """Return the labels of digit words."""
    return [WORD_LABELS[word] for word in words]


def phone_labels(words: Sequence[str]) -> list[int]:
    """Return the labels of the words' phones."""
    return [PHONE_LABELS[phone] for word in words for phone in PRONUNCIATIONS[word].split()]


# --- weights file ---


def write_network(network: DigitsNetwork, path: Path) -> None:
    """Write the weights in half precision, with the sizes and a checksum in the metadata, atomically."""
    tensors = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    metadata = {SIZES: json.dumps(asdict(network.sizes))}
    metadata[CHECKSUM] = checksum(tensors, metadata)
    write_atomically(path, lambda tmp_path: save_file(tensors, tmp_path, metadata=metadata))


def read_network(path: Path) -> DigitsNetwork:
    """Read a network: float32, frozen, in eval mode.

    Raises FileNotFoundError if the file is missing, ValueError if it is damaged or not such a network.
    """
    if not path.is_file():
        raise FileNotFoundError(f"digits_ctc: no recognizer at {path} (config.ckpts); {TRAIN_AGAIN}")
    try:
        tensors = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"digits_ctc: config.ckpts: {error}; {TRAIN_AGAIN}") from error
    sizes = read_sizes(path, tensors)
    with torch.device("meta"):  # no memory for sizes that the tensors do not have
        expected = {name: value.shape for name, value in DigitsNetwork(sizes).state_dict().items()}
    wrong = sorted(name for name in expected.keys() | tensors.keys() if not fits(tensors.get(name), expected.get(name)))
    if wrong:
        raise ValueError(f"digits_ctc: {path} is not a digit recognizer, it differs in {wrong[0]}; {TRAIN_AGAIN}")
    network = DigitsNetwork(sizes)
    network.load_state_dict({name: value.float() for name, value in tensors.items()})
    return network.eval().requires_grad_(False)


def read_sizes(path: Path, tensors: dict[str, Tensor]) -> NetworkSizes:
    """Read the sizes from the metadata; raise ValueError if they are invalid or the checksum differs."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    saved = metadata.pop(CHECKSUM, None)
    if saved != checksum(tensors, metadata):
        raise ValueError(f"digits_ctc: {path} is damaged, or not a digit recognizer (checksum); {TRAIN_AGAIN}")
    try:
        sizes = json.loads(metadata[SIZES])
        return NetworkSizes(**{**sizes, "dilations": tuple(sizes["dilations"])})
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"digits_ctc: {path} states no valid sizes ({error}); {TRAIN_AGAIN}") from error


def fits(value: Tensor | None, shape: torch.Size | None) -> bool:
    """Check whether a tensor exists with this shape, in floating point and finite."""
    return value is not None and value.shape == shape and value.is_floating_point() and bool(value.isfinite().all())
