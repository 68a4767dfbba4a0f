from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from f5_tts.data.audio import LongAudio, UnreadableAudio, load_audio

RATE = 16_000


def write_m4a(path: Path) -> Path:
    """Write a second of a stereo sine at half of full scale as AAC."""
    sine = 0.5 * np.sin(2 * np.pi * 440 / RATE * np.arange(RATE)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([sine, sine]), format="fltp", layout="stereo")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_an_m4a_file_is_read_up_to_the_limit(tmp_path: Path):
    wave = load_audio(write_m4a(tmp_path / "a.m4a"), RATE)
    assert abs(len(wave) - RATE) < 2500  # AAC adds its frames at both ends
    middle = wave[4000:12000]
    assert middle.square().mean().item() == pytest.approx(0.125, rel=0.1)
    with pytest.raises(LongAudio, match=r"a\.m4a lasts more than 0\.5 s, longer than datasets\.max_seconds=0\.5"):
        load_audio(tmp_path / "a.m4a", RATE, 0.5)


def test_what_is_no_m4a_or_lacks_its_decoder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.m4a").write_bytes(b"not audio at all")
    with pytest.raises(UnreadableAudio, match=r"cannot read .*a\.m4a as audio: .*; make it a WAV file"):
        load_audio(tmp_path / "a.m4a", RATE)
    monkeypatch.setattr("f5_tts.data.other_formats.is_decoder_installed", lambda: False)
    with pytest.raises(UnreadableAudio, match=r"\.m4a is not read without PyAV: .*ffmpeg -i a\.m4a a\.wav"):
        load_audio(tmp_path / "a.m4a", RATE)
