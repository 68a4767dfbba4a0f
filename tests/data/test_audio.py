from __future__ import annotations

import pickle
from io import BytesIO
from math import pi

import numpy as np
import pytest
import soundfile
import torch

from f5_tts.data import audio
from f5_tts.data.audio import BadAudio, LongAudio, MissingAudio, load_audio


def sine(rate: int, duration_s: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * pi * 440 / rate * np.arange(round(rate * duration_s)))).astype("float32")


def test_a_file_at_the_wanted_rate_comes_back_sample_for_sample(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(16000), 16000, subtype="FLOAT")
    assert torch.equal(load_audio(tmp_path / "a.wav", 16000), torch.from_numpy(sine(16000)))


def test_channels_are_averaged(tmp_path):
    stereo = np.stack([sine(16000), np.zeros(8000, dtype="float32")], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 16000, subtype="FLOAT")
    torch.testing.assert_close(load_audio(tmp_path / "a.wav", 16000), torch.from_numpy(sine(16000) / 2))


def test_a_24_khz_sine_read_at_16_khz_is_the_16_khz_sine_within_1e_3(tmp_path):
    soundfile.write(tmp_path / "a.flac", sine(24000), 24000)
    wave = load_audio(str(tmp_path / "a.flac"), 16000)
    assert wave.shape == (8000,) and wave.dtype == torch.float32
    inner = slice(200, -200)  # without the ringing of the resampler at both ends of the sine
    torch.testing.assert_close(wave[inner], torch.from_numpy(sine(16000))[inner], atol=1e-3, rtol=0)


FORMATS = [
    ("a.wav", "PCM_U8"),
    ("a.wav", "PCM_24"),
    ("a.wav", "ULAW"),
    ("a.flac", "PCM_16"),
    ("a.ogg", "VORBIS"),
    ("a.mp3", "MPEG_LAYER_III"),
    ("a.aiff", "PCM_16"),
]


@pytest.mark.parametrize("rate", [8000, 24000, 44100])
@pytest.mark.parametrize(("name", "subtype"), FORMATS)
def test_stereo_of_any_format_and_rate_gives_its_mean_at_the_wanted_rate_within_a_twentieth(
    name, subtype, rate, tmp_path
):
    if subtype not in soundfile.available_subtypes(name.partition(".")[2].upper()):
        pytest.skip(f"this libsndfile has no {subtype}")
    stereo = np.stack([sine(rate, 1.0), 0.5 * sine(rate, 1.0)], axis=1)
    soundfile.write(tmp_path / name, stereo, rate, subtype=subtype)
    wave = load_audio(tmp_path / name, 16000)
    assert wave.dtype == torch.float32 and wave.dim() == 1
    assert abs(len(wave) - 16000) <= 1152  # MP3 may add or drop one frame
    phase = 2 * pi * 440 / 16000 * torch.arange(8000)
    middle = wave[4000:12000]  # 220 full periods
    amplitude = torch.stack([(middle * phase.sin()).mean(), (middle * phase.cos()).mean()]).norm() * 2
    assert amplitude.item() == pytest.approx(0.375, rel=0.05)
    assert middle.square().mean().item() == pytest.approx(0.375**2 / 2, rel=0.1)  # no power beside that of the sine


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no audio file at .*gone\.wav"):
        load_audio(tmp_path / "gone.wav", 16000)


@pytest.mark.parametrize(
    ("listed", "there", "hint"),
    [
        ("a\\b.wav", "a/b.wav", "its path has backslashes"),
        ("e\u0301.wav", "\u00e9.wav", "letters composed"),
        ("\u00e9.wav", "e\u0301.wav", "letters decomposed"),
    ],
)
def test_a_missing_file_that_is_there_by_another_spelling_is_said(listed: str, there: str, hint: str, tmp_path):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    soundfile.write(tmp_path / there, sine(16000), 16000)
    with pytest.raises(FileNotFoundError, match=hint):
        load_audio(tmp_path / listed, 16000)


def test_a_file_that_is_not_audio_is_named_with_the_reason(tmp_path):
    (tmp_path / "a.wav").write_text("not audio at all")
    with pytest.raises(
        ValueError, match=r"cannot read .*a\.wav as audio: .+[^.]; make it a WAV, FLAC, OGG or MP3 file"
    ):
        load_audio(tmp_path / "a.wav", 16000)


def test_samples_without_a_header_are_refused_by_name(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(20000))
    with pytest.raises(ValueError, match=r"cannot read .*a\.raw as audio: .+; make it a WAV, FLAC, OGG or MP3 file"):
        load_audio(tmp_path / "a.raw", 16000)


@pytest.mark.parametrize(
    "samples, message",
    [
        (sine(16000)[:1599], r"a\.wav lasts 0\.0999 s; at least 0\.1 s"),
        (sine(16000)[:0], r"a\.wav lasts 0\.0000 s"),
        (
            np.where(np.arange(8000) < 3, np.nan, sine(16000)),
            r"a\.wav holds 3 samples that are NaN or infinite, of 8000",
        ),
        (np.zeros(8000), r"a\.wav is silent: all 8000 samples are zero"),
    ],
    ids=["short", "empty", "nan", "silent"],
)
def test_audio_that_nothing_can_be_learnt_from_is_refused_with_what_was_found(tmp_path, samples, message):
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match=message):
        load_audio(tmp_path / "a.wav", 16000)


def test_a_file_longer_than_asked_for_is_refused_by_its_header(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(16000, 2.0), 16000)
    assert len(load_audio(tmp_path / "a.wav", 16000, 2.0)) == 32000
    with pytest.raises(LongAudio, match=r"a\.wav lasts 2\.0 s, longer than datasets\.max_seconds=1: shorten it"):
        load_audio(tmp_path / "a.wav", 16000, 1.0)


def test_what_is_wrong_survives_the_way_to_another_process():
    again = pickle.loads(pickle.dumps(MissingAudio("no audio file at a.wav")))
    assert (type(again), str(again), again.kind) == (MissingAudio, "no audio file at a.wav", "missing")


def wav_of(
    subtype: str = "PCM_16", gain: float = 1.0, channels: tuple[int, ...] = (1,), declared: bytes = b""
) -> bytes:
    """Return a WAV file of two seconds of a sine, on request with another declared size of its samples."""
    file = BytesIO()
    soundfile.write(file, gain * sine(16000, 2.0)[:, None] * channels, 16000, subtype=subtype, format="WAV")
    whole = file.getvalue()
    at = whole.index(b"data") + 4
    return whole[:at] + (declared or whole[at : at + 4]) + whole[at + 4 :]


DAMAGED = {
    "cut short: its header says that it is 1.00 s longer": wav_of()[:32044],
    "says that it is empty, and 64000 bytes follow": wav_of(declared=bytes(4)),
    "the channels of .* cancel each other out": wav_of(channels=(1, -1)),
    "holds samples of 5e\\+05; full scale is 1": wav_of("FLOAT", 1e6),
}


@pytest.mark.parametrize("reason", DAMAGED)
def test_damage_that_decoders_pass_over_is_named(reason: str, tmp_path):
    (tmp_path / "a.wav").write_bytes(DAMAGED[reason])
    with pytest.raises(BadAudio, match=reason):
        load_audio(tmp_path / "a.wav", 16000)


@pytest.mark.parametrize("cover", [b"", b"ID3\x04\0\0\0\0\x02\x01" + bytes(257)], ids=["bare", "with a cover"])
def test_an_mp3_file_that_says_its_length_may_not_end_before_it(cover: bytes, tmp_path):
    file = BytesIO()
    soundfile.write(file, sine(16000, 2.0), 16000, format="MP3")
    whole = file.getvalue()
    half = whole[: len(whole) // 2]
    for name, content in {"whole": whole, "half": half, "untold": half.replace(b"Xing", b"none")}.items():
        (tmp_path / f"{name}.mp3").write_bytes(cover + content)
    assert len(load_audio(tmp_path / "whole.mp3", 16000)) == pytest.approx(32000, abs=1152)
    assert len(load_audio(tmp_path / "untold.mp3", 16000)) < 20000
    with pytest.raises(BadAudio, match=r"half\.mp3 is cut short: its header says that it is \d\.\d\d s longer"):
        load_audio(tmp_path / "half.mp3", 16000)


@pytest.mark.parametrize("declared", [b"\xff" * 4, b"\x00\xf0\xff\x7f"], ids=["ffmpeg", "sox"])
def test_a_piped_file_that_does_not_know_its_size_is_read(declared: bytes, tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_of(declared=declared))
    assert len(load_audio(tmp_path / "a.wav", 16000)) == 32000


def test_floats_in_the_range_of_integers_are_scaled_and_it_is_said_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(audio, "said", [])
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(wav_of("FLOAT", 32768.0))
        expected = torch.from_numpy(sine(16000, 2.0)).float()
        torch.testing.assert_close(load_audio(tmp_path / name, 16000), expected, atol=1e-6, rtol=0)
    out = capsys.readouterr().out
    assert out.count("range of 16-bit integers") == 1 and "a.wav" in out
