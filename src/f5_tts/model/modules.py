"""Log-mel under its name and with its layout in F5-TTS, bins first."""

from __future__ import annotations

from dataclasses import asdict

from jaxtyping import Float
from torch import Tensor, nn

from f5_tts.config.schema import MelSpecConfig
from f5_tts.model.mel import LogMel


class MelSpec(nn.Module):
    """Log-mel of waveforms, bins first."""

    def __init__(
        self,
        n_fft: int = 1024,
        hop_length: int = 256,
        win_length: int = 1024,
        n_mel_channels: int = 100,
        target_sample_rate: int = 24_000,
        mel_spec_type: str = "vocos",
    ) -> None:
        super().__init__()
        if mel_spec_type not in ("vocos", "bigvgan"):
            raise ValueError(f"mel_spec_type={mel_spec_type} is not allowed; allowed: vocos or bigvgan")
        self.config = MelSpecConfig(
            target_sample_rate=target_sample_rate,
            n_mel_channels=n_mel_channels,
            hop_length=hop_length,
            win_length=win_length,
            n_fft=n_fft,
            mel_spec_type=mel_spec_type,
        )
        self.log_mel = LogMel(self.config)
        for name, value in asdict(self.config).items():
            setattr(self, name, value)

    def forward(self, wav: Float[Tensor, "*b nw"]) -> Float[Tensor, "b d n"]:
        """Compute the log-mel of one waveform, a batch, or a batch with a channel."""
        return self.log_mel(wav.reshape(-1, wav.shape[-1])).transpose(1, 2)
