"""Programs that load models by f5_tts.infer.utils_infer; each test has the imports and calls of one of them."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from tests.compat.conftest import BINS, HOP, RATE, RECORDING, SAID, STEPS, Published
from tests.compat.speech import TEXT, assert_speech, num_frames

from f5_tts.api import F5TTS
from f5_tts.config.load import compose_config
from f5_tts.config.schema import RLTrainConfig, TrainConfig
from f5_tts.infer import utils_infer
from f5_tts.infer.cli import run_cli
from f5_tts.socket_server import TTSStreamingProcessor

LONG = "one two three four, five six seven eight nine. " * 5


@pytest.fixture(scope="session")
def loaded(published: Published) -> tuple[Any, Any]:
    """Load model and vocoder once, as most programs do."""
    from f5_tts.infer.utils_infer import load_model, load_vocoder
    from f5_tts.model import DiT

    vocoder = load_vocoder(vocoder_name="vocos", is_local=True, local_path=published.vocoder, device="cpu")
    return load_model(DiT, published.sizes, published.ckpt, vocab_file=published.vocab, device="cpu"), vocoder


def test_node_with_the_core_functions(published: Published, expected) -> None:
    from f5_tts.infer.utils_infer import infer_process, load_model, load_vocoder, preprocess_ref_audio_text
    from f5_tts.model import DiT

    vocoder = load_vocoder("vocos", True, published.vocoder, "cpu")
    model = load_model(DiT, published.sizes, published.ckpt, "vocos", published.vocab, "euler", True, "cpu")
    audio, text = preprocess_ref_audio_text(str(RECORDING), SAID, show_info=print)
    assert text == f"{SAID}. " and soundfile.info(audio).samplerate == 16_000
    torch.manual_seed(7)
    spoken = infer_process(audio, text, TEXT, model, vocoder, mel_spec_type="vocos", nfe_step=STEPS, device="cpu")
    assert_speech(spoken, expected)


def test_node_that_reads_sizes_from_a_packaged_config(published: Published, loaded, expected) -> None:
    from f5_tts.infer.utils_infer import infer_process, load_model, preprocess_ref_audio_text

    f5_model = importlib.import_module("f5_tts.model")
    config = OmegaConf.load(str(files("f5_tts").joinpath("configs/F5TTS_v1_Base.yaml")))
    model_cls = getattr(f5_model, config.model.backbone)
    sizes = {**config.model.arch, **published.sizes}  # the rest is the config's
    assert config.model.mel_spec.mel_spec_type == "vocos" and config.model.tokenizer == "pinyin"
    model = load_model(
        model_cls, OmegaConf.create(sizes), published.ckpt, vocab_file=published.vocab, ode_method="euler",
        use_ema=True, device="cpu",
    )  # fmt: skip
    audio, text = preprocess_ref_audio_text(str(RECORDING), SAID)
    torch.manual_seed(7)
    wave, rate, mel = infer_process(
        audio, text, TEXT, model, loaded[1], mel_spec_type=config.model.mel_spec.mel_spec_type, nfe_step=STEPS,
        speed=1, cross_fade_duration=0.15, sway_sampling_coef=-1, cfg_strength=2, device="cpu",
    )  # fmt: skip
    assert_speech((wave, rate, mel), expected)


def test_node_that_cleans_texts_and_pins_the_random_numbers(loaded, expected) -> None:
    from f5_tts.infer.utils_infer import infer_process, preprocess_ref_audio_text
    from f5_tts.model.utils import seed_everything

    model, vocoder = loaded
    audio, text = preprocess_ref_audio_text(str(RECORDING), f" {SAID} ")
    for seed in (7, 2**64 + 7):
        seed_everything(seed)
        spoken = infer_process(audio, text, "\n".join(TEXT.split()), model, vocoder, nfe_step=STEPS, progress=None)
        assert_speech(spoken, expected)
    again = infer_process(audio, text, TEXT, model, vocoder, nfe_step=STEPS, progress=None)
    assert np.abs(again[2] - expected[2]).mean() > 1e-3  # the seed counts once, the next call is another take


def test_audiobook_maker_with_the_published_vocoder_and_a_progress_of_its_own(
    tts: F5TTS, loaded, expected, monkeypatch
):
    from f5_tts.infer.utils_infer import infer_process, load_vocoder, preprocess_ref_audio_text

    bars: list[int] = []

    class Progress:  # as gradio's
        def tqdm(self, items: Any) -> Any:
            bars.append(len(items))
            return items

    vocoder = load_vocoder()
    audio, text = preprocess_ref_audio_text(str(RECORDING), SAID)
    torch.manual_seed(7)
    spoken = infer_process(audio, text, TEXT, loaded[0], vocoder, progress=Progress(), nfe_step=STEPS)
    assert_speech(spoken, expected)
    monkeypatch.setattr("f5_tts.infer.chunking.MAX_TOTAL_S", 8.0)
    torch.manual_seed(7)
    spoken = infer_process(audio, text, LONG, loaded[0], vocoder, progress=Progress(), nfe_step=STEPS)
    ours = tts.infer(RECORDING, SAID, LONG, seed=7)
    assert bars[0] == 1 and bars[1] > 1
    assert spoken[1] == RATE and spoken[0].shape == ours[0].shape
    np.testing.assert_allclose(spoken[0], ours[0], atol=1e-4)


def test_voice_server_warms_up_with_a_trimmed_recording(tts: F5TTS, expected) -> None:
    from f5_tts.infer.utils_infer import preprocess_ref_audio_text

    audio, text = preprocess_ref_audio_text(str(RECORDING), SAID)
    before = soundfile.read(audio)[0]
    assert len(before) < soundfile.info(RECORDING).frames + 1
    assert_speech(tts.infer(audio, text.strip(" ."), TEXT, seed=7), expected)  # trimming it again changes nothing


def test_stage_server_takes_batches_in_half_precision(published: Published, loaded, expected) -> None:
    from hydra.utils import get_class

    from f5_tts.infer.utils_infer import infer_batch_process, load_model, preprocess_ref_audio_text

    model = load_model(get_class("f5_tts.model.DiT"), published.sizes, published.ckpt, device="cpu")
    model = model.to(torch.bfloat16).eval()
    path, text = preprocess_ref_audio_text(str(RECORDING), SAID)
    torch.manual_seed(7)
    (spoken,) = infer_batch_process(read(Path(path)), text, [TEXT], model, loaded[1], nfe_step=STEPS)
    tts = F5TTS(published.config, published.ckpt, published.vocab, device="cpu")
    tts.ema_model.to(torch.bfloat16)
    assert_speech(spoken, tts.infer(RECORDING, SAID, TEXT, seed=7))
    assert 1e-4 < np.abs(spoken[2] - expected[2]).mean() < 0.5 * expected[2].std()  # of the same in single precision


def test_streaming_server_gets_pieces_before_the_last_chunk(loaded, monkeypatch) -> None:
    from f5_tts.infer.utils_infer import infer_batch_process

    model, vocoder = loaded
    made: list[int] = []
    decode = vocoder.decode
    monkeypatch.setattr(vocoder, "decode", lambda mel: made.append(mel.shape[2]) or decode(mel))
    audio, rate = read(RECORDING)
    chunks = ["one two three four,", "five six seven eight."]

    def speech(**how: Any) -> Any:
        torch.manual_seed(7)
        return infer_batch_process(
            (audio, rate),
            f"{SAID}. ",
            chunks,
            model,
            vocoder,
            progress=None,
            nfe_step=STEPS,
            cross_fade_duration=0,
            **how,
        )

    pieces = speech(streaming=True, chunk_size=2048)
    first, piece_rate = next(pieces)
    assert (first.shape, first.dtype, piece_rate) == ((2048,), np.float32, RATE)
    assert len(made) == 1  # the second chunk is not yet spoken
    rest = [piece for piece, _ in pieces]
    assert len(made) == 2
    ((whole, _, mel),) = speech()
    np.testing.assert_allclose(np.concatenate([first, *rest]), whole, atol=1e-5)
    assert len(whole) == HOP * (mel.shape[1] - 2)
    assert list(infer_batch_process((audio, rate), SAID, [], model, vocoder)) == [(None, RATE, None)]


def test_socket_server_reads_everything_from_the_config(published: Published, loaded, tts: F5TTS) -> None:
    from hydra.utils import get_class

    from f5_tts.infer.utils_infer import chunk_text, infer_batch_process, load_model, preprocess_ref_audio_text

    cfg = OmegaConf.load(str(files("f5_tts").joinpath("configs/E2TTS_Base.yaml")))
    assert cfg.model.backbone == "UNetT"
    cfg = OmegaConf.load(str(files("f5_tts").joinpath("configs/F5TTS_v1_Base.yaml")))
    cls, kind, rate = get_class(f"f5_tts.model.{cfg.model.backbone}"), cfg.model.mel_spec.mel_spec_type, RATE
    assert cfg.model.mel_spec.target_sample_rate == rate
    model = load_model(cls, {**cfg.model.arch, **published.sizes}, published.ckpt, kind, "", "euler", True, "cpu").to(
        "cpu"
    )
    path, text = preprocess_ref_audio_text(str(RECORDING), SAID)
    audio, sr = read(Path(path))
    batches = chunk_text(LONG, max_chars=30)
    assert len(batches) == 10 and all(len(batch) <= 30 for batch in batches)
    torch.manual_seed(7)
    stream = infer_batch_process(
        (audio, sr), text, batches[:1], model, loaded[1], progress=None, device="cpu", streaming=True, nfe_step=STEPS,
        chunk_size=1000,
    )  # fmt: skip
    pieces = list(stream)
    ours = tts.infer(RECORDING, SAID, batches[0], seed=7)
    assert_speech((np.concatenate([piece for piece, _ in pieces]), pieces[0][1], ours[2]), ours, num_frames(batches[0]))
    assert [len(piece) for piece, _ in pieces[:-1]] == [1000] * (len(pieces) - 1)


def test_voice_assistant_daemon_transcribes(monkeypatch) -> None:
    from f5_tts.infer.utils_infer import initialize_asr_pipeline, preprocess_ref_audio_text, transcribe

    clips: list[torch.Tensor] = []

    class Listener:
        def transcribe(self, given: list[torch.Tensor]) -> list[str]:
            clips.extend(given)
            return [" seven two four "]

    monkeypatch.setattr("f5_tts.infer.whisper.general_whisper", Listener)
    initialize_asr_pipeline(device="cpu")
    assert transcribe(str(RECORDING), "english") == SAID
    assert len(clips[0]) == soundfile.info(RECORDING).frames
    with pytest.raises(ValueError, match="language=french cannot be transcribed"):
        transcribe(str(RECORDING), "french")
    messages: list[str] = []
    assert preprocess_ref_audio_text(str(RECORDING), "", show_info=messages.append)[1] == f"{SAID}. "
    assert messages == [f"{RECORDING} says: {SAID}"]
    monkeypatch.setattr(utils_infer, "transcribe", lambda path: "Another engine.")
    assert preprocess_ref_audio_text(str(RECORDING), "")[1] == "Another engine. "


def test_web_page_with_files_of_its_own(loaded, expected, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from f5_tts.infer.utils_infer import (
        infer_process,
        preprocess_ref_audio_text,
        remove_silence_for_generated_wav,
        save_spectrogram,
        tempfile_kwargs,
    )

    audio, text = preprocess_ref_audio_text(str(RECORDING), SAID, show_info=lambda *_: None)
    messages: list[str] = []
    torch.manual_seed(7)
    spoken = infer_process(
        audio, text, TEXT, *loaded, cross_fade_duration=0.15, nfe_step=STEPS, speed=1.0, show_info=messages.append
    )
    assert_speech(spoken, expected)
    assert messages == ["1 chunk of text"]
    with tempfile.NamedTemporaryFile(suffix=".wav", dir=tmp_path, **tempfile_kwargs) as file:
        pause = np.zeros(3 * RATE, np.float32)
        soundfile.write(file.name, np.concatenate([spoken[0], pause, spoken[0]]), RATE)
        file.close()
        remove_silence_for_generated_wav(file.name)
        assert 0 < soundfile.info(file.name).frames < 2 * len(spoken[0]) + 1.2 * RATE
    with tempfile.NamedTemporaryFile(suffix=".png", dir=tmp_path, **tempfile_kwargs) as file:
        save_spectrogram(spoken[2], file.name)
        assert Path(file.name).read_bytes().startswith(b"\x89PNG")


def test_demo_that_reads_and_sets_constants(loaded) -> None:
    names = "hop_length target_sample_rate n_mel_channels win_length n_fft mel_spec_type target_rms cross_fade_duration"
    names += " ode_method nfe_step cfg_strength sway_sampling_coef speed fix_duration"
    values = [getattr(utils_infer, name) for name in names.split()]
    assert values == [HOP, RATE, BINS, 1024, 1024, "vocos", 0.1, 0.15, "euler", 32, 2.0, -1.0, 1.0, None]
    assert torch.device(utils_infer.device).type in ("cpu", "cuda")


def test_program_that_sets_the_constants_for_a_model_of_its_own(monkeypatch, expected) -> None:
    mini = Path(__file__).parents[2] / "pretrained/F5TTS_Mini/model_800.safetensors"
    monkeypatch.setattr(utils_infer, "target_sample_rate", 16_000)
    monkeypatch.setattr(utils_infer, "hop_length", 320)
    config = OmegaConf.load(str(files("f5_tts").joinpath("configs/F5TTS_Mini.yaml"))).model
    f5_model = importlib.import_module("f5_tts.model")
    model = utils_infer.load_model(getattr(f5_model, config.backbone), config.arch, mini, device="cpu")
    vocoder = utils_infer.load_vocoder("griffin_lim", device="cpu")
    vocoder.iterations = config.vocoder.iterations
    path, text = utils_infer.preprocess_ref_audio_text(str(RECORDING), SAID)
    torch.manual_seed(3)
    wave, rate, mel = utils_infer.infer_process(
        path, text, "nine four eight", model, vocoder, nfe_step=4, cfg_strength=1, progress=None
    )
    tts = F5TTS("F5TTS_Mini", mini, device="cpu")
    tts.synthesizer = tts.synthesizer.with_overrides(["infer.trim=upstream"])
    ours = tts.infer(RECORDING, SAID, "nine four eight", seed=3)
    assert (rate, len(wave) // 320 + 1) == (16_000, mel.shape[1])
    np.testing.assert_allclose(mel, ours[2], atol=1e-4)
    np.testing.assert_allclose(wave, ours[0], atol=1e-3)


def test_programs_that_replace_functions_of_the_module(
    published: Published, loaded, expected, tts: F5TTS, monkeypatch
) -> None:
    calls: list[str] = []
    load, split = utils_infer.load_checkpoint, utils_infer.convert_char_to_pinyin

    def load_in_float32(model: Any, ckpt_path: str, device: str, dtype: Any = None, use_ema: Any = True) -> Any:
        calls.append("load_checkpoint")
        return load(model, ckpt_path, device, dtype=torch.float32, use_ema=use_ema)

    def split_shouting(texts: list[str]) -> list[list[str]]:
        calls.append("convert_char_to_pinyin")
        return split([text.replace("NINE", "nine") for text in texts])

    monkeypatch.setattr(utils_infer, "load_checkpoint", load_in_float32)
    monkeypatch.setattr(utils_infer, "convert_char_to_pinyin", split_shouting)
    from f5_tts.model import DiT

    model = utils_infer.load_model(DiT, published.sizes, published.ckpt, vocab_file=published.vocab)
    audio, text = utils_infer.preprocess_ref_audio_text(str(RECORDING), SAID)
    torch.manual_seed(7)
    spoken = utils_infer.infer_process(
        audio, text, TEXT.replace("nine", "NINE"), model, SimpleNamespace(decode=loaded[1].decode), nfe_step=STEPS
    )
    assert_speech(spoken, expected)
    assert calls[0] == "load_checkpoint" and "convert_char_to_pinyin" in calls[1:]
    assert_speech(tts.infer(RECORDING, SAID, TEXT.replace("nine", "NINE"), seed=7), expected)  # also by the class


def test_letters_are_read_in_the_form_that_the_vocabulary_has(loaded, tts: F5TTS) -> None:
    symbols, composed, decomposed = tts.synthesizer.vocabulary.ids, "xin ch\u00e0o c\u1ee7a", "xin cha\u0300o cu\u0309a"
    assert "\u1ee7" in symbols and "\u0309" not in symbols
    ours = tts.infer(RECORDING, SAID, composed, seed=7)
    path, text = utils_infer.preprocess_ref_audio_text(str(RECORDING), SAID)
    torch.manual_seed(7)
    spoken = utils_infer.infer_process(path, text, decomposed, *loaded, nfe_step=STEPS, progress=None)
    for speech in (spoken, tts.infer(RECORDING, SAID, decomposed, seed=7)):
        assert_speech(speech, ours, num_frames("xin ch__o c___a"))  # by bytes


def test_text_of_a_reference_without_a_full_stop_is_taken_as_it_is(loaded) -> None:
    path, _ = utils_infer.preprocess_ref_audio_text(str(RECORDING), SAID)
    hops = soundfile.info(path).frames * RATE // 16_000 // HOP
    for text, num_bytes in ((SAID, len(SAID) + 1), (f"{SAID}. ", len(SAID) + 3)):
        _, _, mel = utils_infer.infer_process(path, text, TEXT, *loaded, nfe_step=1, progress=None)
        assert mel is not None and mel.shape[1] == int(hops / num_bytes * len(TEXT))


def test_a_fixed_duration_is_that_of_all_chunks_together(loaded) -> None:
    audio, rate = read(RECORDING)
    chunks = ["one two three four,", "five six seven eight nine."]
    ((wave, _, mel),) = utils_infer.infer_batch_process(
        (audio, rate), SAID, chunks, *loaded, fix_duration=5, cross_fade_duration=0.5, nfe_step=1, progress=None
    )
    hops = audio.shape[1] * RATE // rate // HOP
    reference_s = hops * HOP / RATE
    shares = [(5 - reference_s + 0.5) * len(chunk) / sum(map(len, chunks)) for chunk in chunks]  # 0.5 s overlap
    assert mel.shape[1] == sum(int((reference_s + share) * RATE / HOP) - hops for share in shares)
    assert abs(len(wave) / RATE - (5 - reference_s)) < 4 * HOP / RATE  # each chunk ends up to two frames earlier


MEL, NAME = "model.mel_spec.mel_spec_type=bigvgan", "model.vocoder.name=bigvgan"
BIGVGAN: dict[str, Callable[[Published, Path], object]] = {
    "load_vocoder": lambda files, _: utils_infer.load_vocoder("bigvgan"),
    "load_vocoder from a folder": lambda files, _: utils_infer.load_vocoder("bigvgan", True, "../checkpoints/bigvgan"),
    "class, vocoder": lambda files, config: F5TTS(str(config), files.ckpt),
    "class, folder": lambda files, config: F5TTS(str(config), files.ckpt, vocoder_local_path="../checkpoints/bigvgan"),
    "command": lambda files, _: run_cli(["-mc", files.config, "-p", files.ckpt, "--vocoder_name", "bigvgan"]),
    "command, config": lambda files, config: run_cli(["-mc", str(config), "-p", files.ckpt]),
    "server": lambda files, _: TTSStreamingProcessor(files.config, files.ckpt, "", "", "", overrides=[NAME]),
    "server, mels": lambda files, _: TTSStreamingProcessor(files.config, files.ckpt, "", "", "", overrides=[MEL]),
    "training": lambda files, _: compose_config("F5TTS_Base", [NAME], TrainConfig),
    "training by rewards": lambda files, _: compose_config("F5TTS_Base_RL", [NAME], RLTrainConfig),
}


@pytest.mark.parametrize("entry", BIGVGAN)
def test_bigvgan_is_refused_in_a_sentence_wherever_it_is_asked_for(entry: str, published: Published, tmp_path: Path):
    config = OmegaConf.load(published.config)
    config.model.mel_spec = {"mel_spec_type": "bigvgan"}
    OmegaConf.save(config, tmp_path / "bigvgan.yaml")
    with pytest.raises(ValueError, match=r"BigVGAN's decoder is not built in.* griffin_lim"):
        BIGVGAN[entry](published, tmp_path / "bigvgan.yaml")


def test_what_is_not_offered_is_refused_in_a_sentence(published: Published, tmp_path: Path) -> None:
    from f5_tts.model import DiT

    with pytest.raises(TypeError, match=r"DiT has no argument wide; its arguments: mel_dim, text_num_embeds, dim"):
        utils_infer.load_model(DiT, {**published.sizes, "wide": 1}, published.ckpt)
    with pytest.raises(ValueError, match="does not fit this model"):
        utils_infer.load_model(DiT, {**published.sizes, "depth": 3}, published.ckpt)
    with pytest.raises(FileNotFoundError, match=r"no file at gone\.pt, which ckpt_path names"):
        utils_infer.load_model(DiT, published.sizes, "gone.pt")


def read(path: Path) -> tuple[torch.Tensor, int]:
    """Read a file as torchaudio does: channels first."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate


def test_length_rule_of_the_tests_is_that_of_the_speech(expected) -> None:
    assert expected[2].shape[1] == num_frames()
