"""Programs that use the class F5TTS; each test has the imports and calls of one of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tests.compat.conftest import RATE, RECORDING, SAID, STEPS, Published
from tests.compat.speech import TEXT, assert_speech, num_frames

from f5_tts.api import F5TTS
from f5_tts.data.tokenizer import byte_vocabulary
from f5_tts.infer import whisper


def test_serverless_worker(published: Published, expected, tmp_path: Path) -> None:
    model = F5TTS(model=published.config, ckpt_file=published.ckpt, vocab_file=published.vocab, device="cpu")
    out = tmp_path / "out.wav"
    spoken = model.infer(
        ref_file=str(RECORDING), ref_text=SAID, gen_text=TEXT, remove_silence=False, file_wave=str(out), seed=7
    )
    assert_speech(spoken, expected)
    saved, rate = soundfile.read(out, dtype="float32")
    assert rate == RATE
    np.testing.assert_allclose(saved, spoken[0].clip(-1, 1), atol=1 / 2**15)


def test_voice_clone_engine(tts: F5TTS) -> None:
    spoken = tts.infer(str(RECORDING), SAID, TEXT, nfe_step=8, speed=0.8, seed=3)
    assert_speech(spoken, tts.infer(RECORDING, SAID, TEXT, nfe_step=8, speed=0.8, seed=3), num_frames(speed=0.8))


def test_node_suite_that_looks_whether_there_is_a_model(tts: F5TTS, expected) -> None:
    assert hasattr(tts, "ema_model") and tts.ema_model.training is False
    if hasattr(tts, "ema_model"):
        tts.ema_model.to("cpu")
    assert_speech(tts.infer(str(RECORDING), SAID, TEXT, seed=7), expected)


def test_voice_server_with_many_keywords(tts: F5TTS, expected) -> None:
    spoken = tts.infer(
        ref_file=str(RECORDING),
        ref_text=SAID,
        gen_text=TEXT,
        target_rms=0.1,
        cross_fade_duration=0.15,
        sway_sampling_coef=-1,
        cfg_strength=2,
        nfe_step=STEPS,
        speed=1.0,
        remove_silence=False,
        seed=7,
    )
    assert_speech(spoken, expected)


def test_measurement_of_speed(published: Published, expected, tmp_path: Path, capsys) -> None:
    model = F5TTS(published.config, published.ckpt, published.vocab, device="cpu", hf_cache_dir=str(tmp_path))
    capsys.readouterr()
    assert_speech(model.infer(str(RECORDING), SAID, TEXT, show_info=lambda *_: None, progress=None, seed=7), expected)
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "")


def test_all_arguments_by_position(published: Published, expected) -> None:
    model = F5TTS(
        published.config, published.ckpt, published.vocab, "euler", True, published.vocoder, "cpu", None
    )  # fmt: skip
    spoken = model.infer(
        str(RECORDING), SAID, TEXT, print, None, 0.1, 0.15, -1, 2, STEPS, 1.0, None, False, None, None, 7
    )  # fmt: skip
    assert_speech(spoken, expected)


def test_dubbing_that_collects_messages(tts: F5TTS, tmp_path: Path) -> None:
    long = tmp_path / "long.wav"
    tone = 0.3 * np.sin(np.arange(14 * RATE) / 20) * (np.arange(14 * RATE) % RATE > RATE / 10)
    soundfile.write(long, tone, RATE)
    messages: list[str] = []
    tts.infer(str(long), SAID, TEXT, show_info=messages.append, progress=None, nfe_step=1, seed=7)
    assert [f"{long} is too long" in message for message in messages] == [True]


def test_service_without_a_picture(tts: F5TTS, expected) -> None:
    assert_speech(tts.infer(str(RECORDING), SAID, TEXT, file_wave=None, file_spec=None, seed=7), expected)


def test_example_of_the_class_writes_wave_and_picture(tts: F5TTS, expected, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    spoken = tts.infer(
        ref_file=RECORDING,
        ref_text=SAID,
        gen_text=TEXT,
        file_wave=str(tmp_path / "api_out.wav"),
        file_spec=str(tmp_path / "api_out.png"),
        seed=7,
    )
    assert_speech(spoken, expected)
    assert tts.seed == 7
    assert (tmp_path / "api_out.png").read_bytes().startswith(b"\x89PNG")
    assert soundfile.info(tmp_path / "api_out.wav").frames == len(spoken[0])


def test_assistant_with_seed_minus_one_gets_another_take_each_time(tts: F5TTS) -> None:
    spoken, seeds = [], []
    for _ in range(2):
        spoken.append(tts.infer(str(RECORDING), SAID, TEXT, seed=-1))
        assert tts.seed is not None and tts.seed >= 0
        seeds.append(tts.seed)
    assert seeds[0] != seeds[1] and np.abs(spoken[0][2] - spoken[1][2]).mean() > 1e-3
    assert_speech(spoken[0], tts.infer(RECORDING, SAID, TEXT, seed=seeds[0]))


def test_node_with_seeds_of_64_bits(tts: F5TTS) -> None:
    largest = tts.infer(str(RECORDING), SAID, [TEXT, TEXT], seed=2**64 - 1)
    assert_speech((largest[0][1], largest[1], largest[2][1]), tts.infer(RECORDING, SAID, TEXT, seed=0))  # 2^64 is 0
    seed = random.Random(0).getrandbits(63) | 1 << 62
    assert_speech(tts.infer(str(RECORDING), SAID, TEXT, seed=seed), tts.infer(RECORDING, SAID, TEXT, seed=seed))
    with pytest.raises(ValueError, match=r"infer\.seed=18446744073709551616 is not allowed; .* below 2\^64"):
        tts.infer(str(RECORDING), SAID, TEXT, seed=2**64)


def test_web_page_that_transcribes(tts: F5TTS, monkeypatch) -> None:
    monkeypatch.setattr("f5_tts.infer.whisper.general_whisper", lambda: Listener())
    assert tts.transcribe(str(RECORDING), language="en") == tts.transcribe(str(RECORDING)) == "said"
    with pytest.raises(ValueError, match=r"language=zh cannot be transcribed: .* English alone"):
        tts.transcribe(str(RECORDING), "zh")
    assert whisper.check_language(None) is None


def test_detector_that_loads_weights_of_its_own(published: Published) -> None:
    model = F5TTS(published.config, published.ckpt, published.vocab, device="cpu")
    before = model.infer(str(RECORDING), SAID, TEXT, seed=7)
    weights = model.ema_model.transformer.state_dict()
    louder = {name: 1.5 * value if name == "proj_out.bias" else value for name, value in weights.items()}
    model.ema_model.transformer.load_state_dict(louder)
    after = model.infer(str(RECORDING), SAID, TEXT, seed=7)
    assert after[2].shape == before[2].shape and np.abs(after[2] - before[2]).mean() > 1e-3


@pytest.mark.slow
def test_page_for_checkpoints_chooses_their_weights(published: Published, tmp_path: Path, tts: F5TTS) -> None:
    raw = {name: value.clone() for name, value in tts.ema_model.state_dict().items()}
    average = {f"ema_model.{name}": 0.5 * value for name, value in raw.items()}
    file = tmp_path / "model_last.pt"
    torch.save({"model_state_dict": raw, "ema_model_state_dict": average, "update": 3}, file)
    for use_ema, factor in ((True, 0.5), (False, 1.0), (None, 0.5)):
        model = F5TTS(published.config, str(file), published.vocab, use_ema=use_ema, device="cpu")
        bias = model.ema_model.transformer.proj_out.bias
        torch.testing.assert_close(bias, factor * raw["transformer.proj_out.bias"])
    assert (model.device, model.mel_spec_type, model.target_sample_rate, model.seed) == ("cpu", "vocos", RATE, None)


def test_page_that_exports_by_hand(tts: F5TTS, expected, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    wave, rate, mel = expected
    tts.export_wav(wave, str(tmp_path / "a.wav"), False)
    tts.export_wav(np.concatenate([wave, np.zeros(3 * rate, np.float32), wave]), str(tmp_path / "b.wav"), True)
    tts.export_spectrogram(mel, str(tmp_path / "a.png"))
    assert soundfile.info(tmp_path / "a.wav").frames == len(wave)
    assert soundfile.info(tmp_path / "b.wav").frames < 2 * len(wave) + 1.2 * rate
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(("old", "name"), [("F5-TTS", "F5TTS_Base"), ("E2-TTS", "E2TTS_Base")])
def test_old_names_of_models_are_known(old: str, name: str, monkeypatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("f5_tts.api.load_synthesizer", lambda cfg, *_: seen.append(cfg.model.name) or _Silent(cfg))
    F5TTS(old)
    assert seen == [name]


class Listener:
    def transcribe(self, clips: list[torch.Tensor]) -> list[str]:
        return [" said "]


class _Silent:
    def __init__(self, cfg: Any) -> None:
        self.sample_rate = cfg.model.mel_spec.target_sample_rate
        self.vocabulary = byte_vocabulary()
