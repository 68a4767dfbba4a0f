"""Speaker-similarity rewards, independent of the encoder."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from f5_tts.rewards.audio import fingerprint, is_usable, resample_to_16k, shared_rate, to_16k_mono, usable_indices
from f5_tts.rewards.clip_losses import clip_losses
from f5_tts.types import RewardInput

CACHE_SIZE = 1024  # cached embeddings, about 1 kB each


class SpeakerSimilarityReward(ABC):
    """Base class of speaker-similarity rewards; subclasses implement `encode`.

    A subclass with `takes = "wave"` and a differentiable `encode` is a differentiable reward.

    Components: `sim`, the cosine of the speaker embeddings of a clip and its reference; -1 where the clip cannot be
    scored, NaN where the reference is missing or unusable. `unusable`: 1 where the clip cannot be scored, else 0.
    """

    component = "sim"

    def __init__(self) -> None:
        self._cache: dict[bytes, Tensor] = {}

    @abstractmethod
    def encode(self, clips: list[Tensor]) -> Float[Tensor, "b e"]:
        """Compute a speaker embedding of each clip (mono, 16 kHz, at least 0.1 s), of any norm."""

    def score(self, inputs: Sequence[RewardInput]) -> dict[str, Float[Tensor, " b"]]:
        """Score the clips; raise ValueError if their sample rates differ."""
        sample_rate = shared_rate(inputs)
        clips = self.embed([item.audio for item in inputs], sample_rate)
        references = self.references(inputs)
        usable = clips.any(dim=1)
        similarity = (clips * references).sum(dim=1).where(usable, -1.0).where(references.any(dim=1), math.nan)
        return {"sim": similarity, "unusable": (~usable).float()}

    @torch.no_grad()
    def embed(self, clips: list[Tensor], sample_rate: int) -> Float[Tensor, "b e"]:
        """Compute speaker embeddings of unit norm, on the CPU; clips that cannot be scored get zeros."""
        usable = usable_indices(clips, sample_rate)
        if not usable:
            return torch.zeros(len(clips), 1)
        return unit_rows(self.encode([to_16k_mono(clips[i], sample_rate) for i in usable]), usable, len(clips))

    def loss(self, inputs: Sequence[RewardInput]) -> Float[Tensor, " b"]:
        """Compute 1 - cosine of each clip, differentiable in its waveform.

        NaN where the clip or the reference is unusable or missing. The graph of one clip exists at a time.
        """
        sample_rate, references = shared_rate(inputs), self.references(inputs)
        applies = [
            is_usable(item.audio, sample_rate) and bool(reference.any())
            for item, reference in zip(inputs, references, strict=True)
        ]

        def distance(clip: Tensor, index: int) -> Tensor:
            vectors = self.encode([resample_to_16k(clip, sample_rate)])
            return 1 - (F.normalize(vectors, dim=1)[0] * references[index].to(vectors)).sum()

        return clip_losses([item.audio if ok else None for item, ok in zip(inputs, applies, strict=True)], distance)

    def references(self, inputs: Sequence[RewardInput]) -> Float[Tensor, "b e"]:
        """Embed the references of the inputs; zeros where there is none, or none that can be used."""
        empty = torch.zeros(0)
        clips = [empty if item.reference_audio is None else item.reference_audio for item in inputs]
        return self._embed_references(clips, shared_rate(inputs))

    def _embed_references(self, clips: list[Tensor], sample_rate: int) -> Float[Tensor, "b e"]:
        """Embed the references, cached: the samples of a group share one reference, and prompts recur."""
        keys = [fingerprint(clip, sample_rate) for clip in clips]
        new = {key: clip for key, clip in zip(keys, clips, strict=True) if key not in self._cache}
        self._cache.update(zip(new, self.embed(list(new.values()), sample_rate), strict=True))
        vectors = [self._cache[key] for key in keys]
        for key in list(self._cache)[:-CACHE_SIZE]:
            del self._cache[key]
        width = max(map(len, vectors))  # references without usable audio may have an embedding of another width
        return torch.stack([vector if len(vector) == width else torch.zeros(width) for vector in vectors])


def unit_rows(vectors: Float[Tensor, "u e"], rows: list[int], num: int) -> Float[Tensor, "b e"]:
    """Scale vectors to unit norm, on the CPU, and put them into these rows of `num` rows; the others are zeros."""
    units = F.normalize(vectors.cpu(), dim=1)
    return units.new_zeros(num, units.shape[1]).index_copy(0, torch.tensor(rows, dtype=torch.long), units)
