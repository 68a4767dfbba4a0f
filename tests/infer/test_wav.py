from __future__ import annotations

from pathlib import Path

import soundfile
import torch

from f5_tts.data.audio import write_wav


def test_a_wav_is_16_bit_and_clipped_at_full_scale(tmp_path: Path):
    write_wav(tmp_path / "new" / "a.wav", torch.tensor([0.0, 0.5, -0.5, 3.0, -3.0]), 16_000)
    samples, rate = soundfile.read(tmp_path / "new" / "a.wav", dtype="int16")
    assert soundfile.info(tmp_path / "new" / "a.wav").subtype == "PCM_16"
    assert rate == 16_000
    assert samples.tolist() == [0, 16384, -16384, 32767, -32768]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.wav"]
