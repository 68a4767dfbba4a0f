"""Call of a vocoder as programs for F5-TTS write it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DecodesMel(nn.Module):
    """Vocoder with the method `decode`."""

    def decode(self, mel: Float[Tensor, "b d n"]) -> Float[Tensor, "b nw"]:
        """Convert log-mels of one length, bins first, to waveforms."""
        lens = torch.full((len(mel),), mel.shape[2], device=mel.device)
        return torch.stack(self(mel.transpose(1, 2), lens))
