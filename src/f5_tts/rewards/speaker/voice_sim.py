"""Speaker similarity by Resemblyzer's published encoder.

Only the weights file of that package is used. Its code, which needs librosa and webrtcvad, is never imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from f5_tts.extras import install_assets
from f5_tts.model.safe_load import LOAD_ERRORS
from f5_tts.rewards.audio import log_mels
from f5_tts.rewards.speaker.similarity_reward import SpeakerSimilarityReward, unit_rows
from f5_tts.rewards.speaker.voice_features import MEL_BINS, cut_windows
from f5_tts.rewards.speaker.voice_mel import cut_mel_windows, is_usable
from f5_tts.types import RewardInput

TRAINING_KEYS = ("similarity_weight", "similarity_bias")  # tensors of the file that only training uses


class VoiceSim(SpeakerSimilarityReward):
    """Cosine similarity of the speaker embeddings of a clip and its reference, in [0, 1].

    See `SpeakerSimilarityReward`. Clips of one second give about 0.75 for the same speaker and 0.55 for another, so
    compare clips rather than the number with 1. Loudness matters: a difference of 6 dB costs 0.02, unless both clips
    are below -30 dBFS. The encoder runs on the CPU.
    """

    requires = ("resemblyzer",)
    takes = "mel"
    num_parameters = 1_423_616

    def __init__(self):
        super().__init__()
        self.encoder = load_encoder(published_weights())

    @staticmethod
    def loss_mib(seconds: float, num_clips: int) -> float:
        """Return the memory of the loss of clips of this length (s), forward and backward, in MiB: all together."""
        return 10.3 * seconds * num_clips

    def encode(self, clips: list[Tensor]) -> Float[Tensor, "b 256"]:
        """Sum the embeddings of the windows of each clip."""
        return self.sum_windows(*cut_windows(clips), len(clips))

    def loss(self, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]:
        """Compute 1 - cosine of each clip, differentiable in its log-mel, from which the encoder's features are made.

        The reference is embedded from its waveform. NaN where it is missing or unusable, and for a clip that is not
        finite or shorter than 0.1 s.
        """
        mels, spec = log_mels(inputs)
        usable = [i for i, mel in enumerate(mels) if is_usable(mel, spec)]
        if not usable:
            return torch.full((len(inputs),), math.nan)
        windows, clip_index = cut_mel_windows([mels[i] for i in usable], spec)
        units = unit_rows(self.sum_windows(windows, clip_index, len(usable)), usable, len(inputs))
        references = self.references(inputs)
        applies = units.any(dim=1) & references.any(dim=1)
        return (1 - (units * references).sum(dim=1)).where(applies, math.nan)

    def sum_windows(
        self, windows: Float[Tensor, "w n 40"], clip_index: Int[Tensor, " w"], num: int
    ) -> Float[Tensor, "b 256"]:
        """Sum the embeddings of the windows of each of `num` clips."""
        vectors = self.encoder(windows.to(self.encoder.linear.weight))
        return vectors.new_zeros(num, vectors.shape[1]).index_add(0, clip_index.to(vectors.device), vectors)


class VoiceEncoder(nn.Module):
    """LSTM encoder: mel power of 1.6 s to a unit vector with non-negative entries.

    Parameter names match the published checkpoint.
    """

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(MEL_BINS, 256, num_layers=3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mel: Float[Tensor, "w n 40"]) -> Float[Tensor, "w 256"]:
        """Compute unit vectors from the last hidden state."""
        _, (hidden, _) = self.lstm(mel)
        return F.normalize(self.linear(hidden[-1]).relu(), dim=1)


def published_weights() -> Path:
    """Return the path of Resemblyzer's installed weights, without importing the package."""
    package = find_spec("resemblyzer")
    folders = package.submodule_search_locations if package else None
    return Path(folders[0] if folders else "resemblyzer") / "pretrained.pt"


def load_encoder(path: Path) -> VoiceEncoder:
    """Load the published encoder strictly.

    Raises FileNotFoundError if the file is missing, ValueError if it is damaged or its tensors differ.
    """
    if not path.is_file():
        raise FileNotFoundError(f"voice_sim: no speaker encoder at {path}; run: {install_assets('resemblyzer')}")
    encoder = VoiceEncoder()
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    except LOAD_ERRORS as error:
        raise ValueError(
            f"voice_sim: {path} is damaged, or not Resemblyzer's encoder; run: {install_assets('resemblyzer')}"
        ) from error
    weights = {name: value for name, value in weights.items() if name not in TRAINING_KEYS}
    mismatched = sorted(weights.keys() ^ encoder.state_dict().keys())
    if mismatched:
        raise ValueError(
            f"voice_sim: {path} is not Resemblyzer's encoder, it differs in {mismatched}; run: "
            f"{install_assets('resemblyzer')}"
        )
    encoder.load_state_dict(weights)
    return encoder.eval().requires_grad_(False)
