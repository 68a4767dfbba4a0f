from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny import SIZES

from f5_tts.config.load import compose_synthesis_config
from f5_tts.config.schema import SynthesisConfig
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.infer.load import find_checkpoint, find_vocabulary, load_synthesizer
from f5_tts.infer.sample import Request
from f5_tts.model.build import build_model, find_device
from f5_tts.model.checkpoint import read_checkpoint, write_checkpoint

ROOT = Path(__file__).parents[2]
BASE = ROOT / "pretrained/F5TTS_Mini/model_800.safetensors"
TINY = [f"model.arch.{key}={value}" for key, value in SIZES.items()]
LETTERS = [" ", *"abc"]


def tiny(*more: str) -> SynthesisConfig:
    return compose_synthesis_config("F5TTS_Mini", [*TINY, *more])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Write a training checkpoint of a tiny Gaussian model, with its vocabulary beside it."""
    run = tiny("model.output_dist=gaussian", "model.objective=gaussian_nll", "model.use_rl_head=true")
    torch.manual_seed(0)
    write_checkpoint(
        tmp_path / "model_last.pt", {"model_state_dict": build_model(run.model, Vocabulary(LETTERS)).state_dict()}
    )
    (tmp_path / "vocab.txt").write_text("\n".join(LETTERS) + "\n", encoding="utf-8")
    return tmp_path / "model_last.pt"


def test_a_checkpoint_with_a_gaussian_head_speaks_without_being_told(checkpoint: Path):
    speaker = load_synthesizer(tiny(), str(checkpoint), device="cpu")
    assert speaker.model.is_gaussian and not speaker.model.training
    assert speaker.vocabulary.symbols == tuple(LETTERS)


def test_bfloat16_speaks_nearly_the_same_from_half_the_memory(capsys):
    """Speak with the shipped model; a log-mel is -11.5 where it is silent, so its spread is what counts."""
    settings = ("infer.nfe_step=4", "infer.epss=false")
    configs = [
        compose_synthesis_config("F5TTS_Mini", [*settings, f"infer.precision={name}"]) for name in ("no", "bf16")
    ]
    speakers = [load_synthesizer(cfg, str(BASE), device="cpu") for cfg in configs]
    sizes = [sum(weight.nbytes for weight in speaker.model.parameters()) for speaker in speakers]
    assert sizes[1] * 2 == sizes[0]
    torch.manual_seed(0)
    request = Request(prompt_mel=torch.randn(40, 100), text="one two three", frames=60, seed=0)
    mels = [speaker.generate_mels([request])[0] for speaker in speakers]
    assert mels[1].dtype == torch.float32
    assert 0 < (mels[0] - mels[1]).std() < 0.03 * mels[0].std()
    assert capsys.readouterr().out == ""


def lies_in(file: Path, value: torch.Tensor) -> bool:
    """Check whether the memory of a tensor is a mapping of a file."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    ranges = [range(*(int(end, 16) for end in line[0].split("-"))) for line in lines]
    return any(value.data_ptr() in addresses for addresses in ranges)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mappings are listed on Linux alone")
def test_weights_to_speak_with_stay_in_the_file_until_the_model_takes_them(checkpoint: Path):
    whole, mapped = read_checkpoint(checkpoint), read_checkpoint(checkpoint, mapped=True)
    assert whole.weights.keys() == mapped.weights.keys()
    for name, value in mapped.weights.items():
        assert torch.equal(value, whole.weights[name])
        assert lies_in(checkpoint, value) and not lies_in(checkpoint, whole.weights[name])
    speaker = load_synthesizer(tiny(), str(checkpoint), device="cpu")
    assert not any(lies_in(checkpoint, weight) for weight in speaker.model.parameters())


def test_a_model_that_was_trained_on_padding_speaks_without_it(checkpoint: Path):
    speaker = load_synthesizer(tiny("model.arch.attn_mask_enabled=false"), str(checkpoint))
    with torch.no_grad():
        for parameter in speaker.model.parameters():  # the output of a new model is zero, whatever it attends to
            parameter.normal_(std=0.1)
    x, lens = torch.randn(2, 9, 100), torch.tensor([9, 5])
    text, time = torch.tensor([[1, 2], [3, 1]]), torch.tensor(0.5)
    mask = torch.arange(9) < lens[:, None]
    both = speaker.model(x, x, text, time, mask).mean
    alone = speaker.model(x[1:, :5], x[1:, :5], text[1:], time, None).mean
    assert alone.abs().mean() > 0.01
    torch.testing.assert_close(both[1, :5], alone[0], atol=1e-5, rtol=0)


def test_the_vocabulary_is_the_one_given_then_the_one_beside_then_for_pinyin_the_released(checkpoint: Path):
    model, bare = tiny().model, read_checkpoint(checkpoint)
    other = checkpoint.with_name("other.txt")
    other.write_text(" \nx\n", encoding="utf-8")
    assert find_vocabulary(str(other), bare, model).symbols == (" ", "x")
    assert find_vocabulary("", bare, model).symbols == tuple(LETTERS)
    (checkpoint.parent / "vocab.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no vocabulary at .*vocab\.txt: give that of the model as vocab_file"):
        find_vocabulary("", bare, model)
    assert len(find_vocabulary("", bare, compose_synthesis_config("F5TTS_v1_Base", []).model)) == 2545
    assert len(find_vocabulary("", bare, tiny("model.tokenizer=byte").model)) == 256


def test_the_configs_own_vocabulary_comes_before_the_checkpoints(checkpoint: Path):
    other = checkpoint.with_name("other.txt")
    other.write_text(" \nx\n", encoding="utf-8")
    made = replace(read_checkpoint(checkpoint), payload={"model": {}, "vocabulary": [" ", "z"]})
    assert find_vocabulary("", made, tiny(f"model.tokenizer_path={other}").model).symbols == (" ", "x")


def test_the_weights_that_a_checkpoint_recommends_speak(checkpoint: Path):
    raw = read_checkpoint(checkpoint).payload["model_state_dict"]
    average = {f"ema_model.{name}": torch.full_like(value, 0.5) for name, value in raw.items()}
    for run, value in (({"recommended": "ema"}, 0.5), ({}, 0.5), ({"recommended": "raw"}, 0.0)):
        write_checkpoint(checkpoint, {"model_state_dict": raw, "ema_model_state_dict": average, **run})
        bias = load_synthesizer(tiny(), str(checkpoint)).model.transformer.proj_out.bias
        assert bias.unique().tolist() == [value]


def test_a_vocabulary_that_the_checkpoint_does_not_know_is_refused(checkpoint: Path):
    raw = read_checkpoint(checkpoint).payload["model_state_dict"]
    write_checkpoint(checkpoint, {"model_state_dict": raw, "model": {}, "vocabulary": [" ", *"cba"]})
    with pytest.raises(ValueError, match="another vocabulary: 4 symbols here, 4 there, and line 2 is 'a' here, 'c'"):
        load_synthesizer(tiny(), str(checkpoint), str(checkpoint.with_name("vocab.txt")))


def test_a_vocabulary_inside_the_checkpoint_comes_before_the_file_beside_it(checkpoint: Path):
    made = replace(read_checkpoint(checkpoint), payload={"model": {}, "vocabulary": [" ", "z"]})
    assert find_vocabulary("", made, tiny().model).symbols == (" ", "z")


def test_texts_are_split_by_the_tokenizer_that_the_checkpoint_was_trained_with(checkpoint: Path, capsys):
    raw = read_checkpoint(checkpoint).payload["model_state_dict"]
    write_checkpoint(checkpoint, {"model_state_dict": raw, "model": {"tokenizer": "custom"}, "vocabulary": LETTERS})
    vocabulary = load_synthesizer(tiny("model.tokenizer=pinyin"), str(checkpoint)).vocabulary
    assert vocabulary.split("ab đường") == [*"ab đường"]  # pinyin puts a space into the word
    assert "was trained with model.tokenizer=custom" in capsys.readouterr().out


def test_the_base_that_ships_here_brings_its_vocabulary_and_its_keys(tmp_path: Path, capsys):
    alone = Path(shutil.copy(BASE, tmp_path))
    assert len(load_synthesizer(compose_synthesis_config("F5TTS_Mini", []), str(alone)).vocabulary) == 27
    assert capsys.readouterr().out == ""


def test_a_model_that_is_not_published_needs_a_checkpoint():
    with pytest.raises(ValueError, match="no checkpoint of F5TTS_Mini is published: give the path of one as ckpt_file"):
        find_checkpoint("F5TTS_Mini", "")
    with pytest.raises(FileNotFoundError, match=r"no file at gone\.pt, which ckpt_file names"):
        find_checkpoint("F5TTS_Mini", "gone.pt")


def test_published_models_come_from_the_hub(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, file in {
        "F5TTS_v1_Base": "SWivid/F5-TTS/resolve/main/F5TTS_v1_Base/model_1250000.safetensors",
        "F5TTS_Base": "SWivid/F5-TTS/resolve/main/F5TTS_Base/model_1200000.safetensors",
        "E2TTS_Base": "SWivid/E2-TTS/resolve/main/E2TTS_Base/model_1200000.safetensors",
    }.items():
        with pytest.raises(FileNotFoundError, match=f"copy https://huggingface.co/{file} here"):
            find_checkpoint(compose_synthesis_config(name, []).model.name, "")


def test_a_device_is_found_or_refused_in_a_sentence():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"device {name} cannot be used here"):
            find_device(name)
