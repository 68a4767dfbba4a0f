"""Speaker similarity by an encoder of this project, trained on the digit corpus's synthesizer: a judge, no reward.

The weights are `pretrained/speaker_judge/model.safetensors`, made by `python -m recipes.digits.train_speaker_judge`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.model.safe_load import read_tensors
from f5_tts.rewards.speaker.ecapa import MEL_BINS, EcapaTdnn
from f5_tts.rewards.speaker.fbank import FRAME, kaldi_fbank
from f5_tts.rewards.speaker.similarity_reward import SpeakerSimilarityReward

SHIPPED = Path(__file__).parents[4] / "pretrained" / "speaker_judge" / "model.safetensors"  # in the repository
MAKE = "python -m recipes.digits.train_speaker_judge"
SCALE = 32768.0  # the filter bank is Kaldi's, of 16-bit samples
RANGE = 12.0  # natural-log power (52 dB): bands are raised to that much below the clip's loudest one
MIN_SAMPLES = 4 * FRAME  # at 16 kHz; shorter clips are repeated


class EcapaSim(SpeakerSimilarityReward):
    """Cosine similarity of the speaker embeddings of a clip and its reference, in [-1, 1].

    See `SpeakerSimilarityReward`. The encoder knows the voices of the digit corpus's synthesizer, and no others.
    Loudness does not matter. It runs on the CPU.
    """

    num_parameters = 308_440

    def __init__(self, path: str | None = None):
        """Load the encoder's weights from a file; None: from the one in the repository."""
        super().__init__()
        self.encoder = load_encoder(SHIPPED if path is None else Path(path).expanduser())

    def encode(self, clips: list[Tensor]) -> Float[Tensor, "b 64"]:
        """Compute the embedding of each clip."""
        return torch.cat([self.encoder(speaker_features(clip)[None]) for clip in clips])


def speaker_features(clip: Float[Tensor, " nw"]) -> Float[Tensor, "n 64"]:
    """Compute log-mel bands of a 16 kHz clip: at most RANGE below the loudest band, with a mean of 0."""
    clip = clip.repeat(-(-MIN_SAMPLES // len(clip)))
    bands = kaldi_fbank(clip * SCALE, MEL_BINS)
    bands = bands.clamp(min=bands.max() - RANGE)
    return bands - bands.mean()


def load_encoder(path: Path) -> EcapaTdnn:
    """Load an encoder strictly, in evaluation mode and frozen.

    Raises FileNotFoundError if the file is missing, ValueError if it is damaged or its tensors differ.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"ecapa_sim: no speaker encoder at {path}; it is part of the repository: set config.path to its file "
            f"pretrained/speaker_judge/model.safetensors, or make one: {MAKE}"
        )
    encoder = EcapaTdnn()
    try:
        weights = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"ecapa_sim: config.path: {error}; make one: {MAKE}") from error
    expected = {name: value.shape for name, value in encoder.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    if differing := sorted({name for name, _ in expected.items() ^ found.items()}):
        raise ValueError(
            f"ecapa_sim: {path} is another network, it differs in {', '.join(differing)}; make one: {MAKE}"
        )
    if broken := sorted(name for name, value in weights.items() if not value.isfinite().all()):
        raise ValueError(
            f"ecapa_sim: {path} holds values that are not finite, in {', '.join(broken)}; make one: {MAKE}"
        )
    encoder.load_state_dict(weights)
    return encoder.eval().requires_grad_(False)
