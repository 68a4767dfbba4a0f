"""Programs that build networks and sample from them by hand; each test has the imports and calls of one of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tests.compat.conftest import BINS, HOP, RATE, RECORDING, SAID, STEPS, Published
from tests.compat.speech import TEXT, assert_speech, num_frames

from f5_tts.api import F5TTS
from f5_tts.config.load import compose_config, schema_of
from f5_tts.config.yaml_files import config_names
from f5_tts.data.audio import load_audio
from f5_tts.infer.reference import read_reference
from f5_tts.model.mel import LogMel

MEL = {"n_fft": 1024, "hop_length": HOP, "win_length": 1024, "n_mel_channels": BINS, "target_sample_rate": RATE}


@pytest.fixture(scope="session")
def built(published: Published) -> Any:
    """Build the model by keywords and load the published file, as programs without load_model do."""
    from f5_tts.model import CFM, DiT
    from f5_tts.model.utils import get_tokenizer

    ids, size = get_tokenizer(published.vocab, "custom")
    model = CFM(
        transformer=DiT(**published.sizes, text_num_embeds=size, mel_dim=BINS),
        mel_spec_kwargs={**MEL, "mel_spec_type": "vocos"},
        odeint_kwargs={"method": "euler"},
        vocab_char_map=ids,
    ).to("cpu")
    weights = {name: value for name, value in load_file(published.ckpt).items() if name not in ("initted", "step")}
    model.load_state_dict({name.replace("ema_model.", ""): value for name, value in weights.items()})
    return model.eval()


def recording() -> tuple[torch.Tensor, float]:
    """Return the trimmed recording at the level of the model's input, and its gain."""
    reference = read_reference(RECORDING, SAID, RATE, trim="upstream")
    gain = max(1.0, 0.1 / reference.rms)
    return gain * reference.wave[None], gain


def test_service_with_a_model_of_its_own(built, tts: F5TTS, expected) -> None:
    from f5_tts.model.utils import convert_char_to_pinyin

    audio, gain = recording()
    hops = audio.shape[-1] // HOP
    text = convert_char_to_pinyin([f"{SAID}.  {TEXT}"])
    generated, trajectory = built.sample(
        cond=audio, text=text, duration=hops + num_frames(), steps=STEPS, cfg_strength=2.0,
        sway_sampling_coef=-1.0, seed=7,
    )  # fmt: skip
    assert trajectory.shape == (STEPS + 1, 1, hops + num_frames(), BINS)
    mel = generated.to(torch.float32)[:, hops:, :].permute(0, 2, 1)
    wave = tts.vocoder.decode(mel) / gain
    assert_speech((wave.squeeze().numpy(), RATE, mel[0].numpy()), expected)


def test_test_time_optimizer_draws_from_torch_and_gives_mels(built) -> None:
    audio, _ = recording()
    mel = built.mel_spec(audio)
    torch.testing.assert_close(mel, LogMel(built.mel_spec.config)(audio).transpose(1, 2))
    cond, out = mel.permute(0, 2, 1), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        out.append(
            built.sample(cond=cond, text=["one two"], duration=cond.shape[1] + 20, steps=1, vocoder=lambda m: m)[0]
        )
    assert out[0].shape == (1, BINS, cond.shape[1] + 20)
    assert torch.equal(out[0], out[1]) and not torch.equal(out[0], out[2])
    assert torch.equal(out[0][:, :, : cond.shape[1]], mel)


def test_game_server_with_batches(built) -> None:
    audio, _ = recording()
    texts = ["one two three", "four five six seven eight nine"]
    duration = torch.tensor([130, 160])
    both, _ = built.sample(cond=audio.repeat(2, 1), text=texts, duration=duration, steps=2, cfg_strength=2.0, seed=5)
    for i in range(2):
        alone, _ = built.sample(
            cond=audio, text=texts[i : i + 1], duration=int(duration[i]), steps=2, cfg_strength=2.0, seed=5
        )
        assert alone.shape[1] == duration[i]
        # the sizes of the program leave attention to padding on, as in published models
        assert (both[i : i + 1, : duration[i]] - alone).abs().mean() < 0.05 * alone.std()


def test_speech_editor_keeps_what_the_mask_says(built, tts: F5TTS) -> None:
    audio, _ = recording()
    cond = built.mel_spec(audio).permute(0, 2, 1)
    mask = torch.ones(1, cond.shape[1], dtype=torch.bool)
    mask[:, 20:40] = False
    edited, _ = built.sample(
        cond=cond, text=[SAID], duration=cond.shape[1], steps=2, cfg_strength=2.0, sway_sampling_coef=-1.0, seed=1,
        edit_mask=mask,
    )  # fmt: skip
    assert edited.shape[1] == cond.shape[1] + 1  # as in F5-TTS, always one frame more than the prompt
    kept = (edited[:, :-1] == cond).all(dim=2)
    assert torch.equal(kept, mask)
    wave = tts.vocoder.decode(edited.permute(0, 2, 1))
    assert wave.shape == (1, HOP * (edited.shape[1] - 1))


def test_voice_converter_without_a_recording(built) -> None:
    audio, _ = recording()
    out, states = built.sample(cond=audio, text=["one"], duration=150, steps=1, seed=1, no_ref_audio=True)
    prompt = audio.shape[1] // HOP + 1
    assert out[:, :prompt].abs().max() == 0 and torch.equal(out[:, prompt:], states[-1][:, prompt:])


def test_the_least_and_the_largest_duration(built) -> None:
    audio, _ = recording()
    prompt, long = audio.shape[1] // HOP + 1, "one two three " * 20
    durations = {"one": prompt + 1, long: len(long) + 1}
    for text, frames in durations.items():
        assert built.sample(cond=audio, text=[text], duration=1, steps=1)[0].shape[1] == frames
    assert built.sample(cond=audio, text=[long], duration=999, steps=1, max_duration=140)[0].shape[1] == 140


def test_model_of_the_class_is_a_public_one(tts: F5TTS, built) -> None:
    assert tts.ema_model.vocab_char_map == built.vocab_char_map
    assert (tts.ema_model.num_channels, built.device) == (BINS, torch.device("cpu"))
    audio, _ = recording()
    both = [m.sample(cond=audio, text=["one"], duration=150, steps=1, seed=3)[0] for m in (tts.ema_model, built)]
    torch.testing.assert_close(*both)


def test_networks_by_their_public_paths_and_names_in_files(published: Published) -> None:
    from hydra.utils import get_class

    import f5_tts.model
    from f5_tts.model.backbones.dit import DiT
    from f5_tts.model.backbones.unett import UNetT
    from f5_tts.model.cfm import CFM

    assert (f5_tts.model.DiT, f5_tts.model.UNetT, f5_tts.model.CFM) == (DiT, UNetT, CFM)
    assert get_class("f5_tts.model.UNetT") is UNetT
    names = {name.removeprefix("ema_model.transformer.") for name in load_file(published.ckpt)} - {"initted", "step"}
    assert set(DiT(**published.sizes, text_num_embeds=2545, mel_dim=BINS).state_dict()) == names
    skips = UNetT(dim=32, depth=4, heads=2, ff_mult=4, text_num_embeds=9).state_dict()
    assert skips["layers.3.0.weight"].shape == (32, 64) and skips["proj_out.weight"].shape == (100, 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", config_names())
def test_counter_of_parameters_reads_a_whole_config(name: str) -> None:
    from f5_tts import model as f5_model

    cfg = OmegaConf.load(str(files("f5_tts").joinpath(f"configs/{name}.yaml"))).model
    composed = compose_config(name, [], schema_of(name)).model
    assert (cfg.tokenizer, cfg.backbone) == (composed.tokenizer, composed.backbone)
    assert OmegaConf.to_container(cfg.mel_spec) == asdict(composed.mel_spec)
    arch = asdict(composed.arch)
    assert {key: arch[key] for key in cfg.arch} == dict(cfg.arch)
    with torch.device("meta"):
        public = getattr(f5_model, cfg.backbone)(**cfg.arch, text_num_embeds=2545, mel_dim=cfg.mel_spec.n_mel_channels)
        ours = getattr(f5_model, cfg.backbone)(composed.arch, composed.mel_spec.n_mel_channels, 2545)
    shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (public, ours)]
    assert shapes[0] == shapes[1]


def test_helpers_of_texts_masks_and_seeds(tmp_path: Path, monkeypatch) -> None:
    from f5_tts.model import utils

    (tmp_path / "data/mine_char").mkdir(parents=True)
    (tmp_path / "data/mine_char/vocab.txt").write_text(" \na\nb\n")
    monkeypatch.chdir(tmp_path)
    assert utils.get_tokenizer("mine", "char") == ({" ": 0, "a": 1, "b": 2}, 3)
    assert utils.get_tokenizer("Emilia_ZH_EN", "pinyin")[1] == 2545
    assert utils.get_tokenizer("any", "byte") == (None, 256)
    assert utils.convert_char_to_pinyin(["Hi, 你好"]) == [["H", "i", ",", " ", " ", "ni2", " ", "hao3"]]
    assert utils.list_str_to_idx(["ab", "?"], {" ": 0, "a": 1, "b": 2}).tolist() == [[1, 2], [0, -1]]
    assert utils.list_str_to_tensor(["é", "a"]).tolist() == [[195, 169], [97, -1]]
    assert utils.lens_to_mask(torch.tensor([1, 3])).tolist() == [[True, False, False], [True, True, True]]
    assert utils.lens_to_mask(torch.tensor([1]), length=2).tolist() == [[True, False]]
    masks = utils.mask_from_frac_lengths(torch.tensor([10, 8]), torch.tensor([0.5, 0.25]))
    assert masks.sum(1).tolist() == [5, 2] and masks.shape == (2, 10)
    utils.seed_everything(3)
    first = torch.rand(2)
    utils.seed_everything(3)
    assert torch.equal(first, torch.rand(2))
    assert utils.default(None, 3) == 3 and utils.default(0, 3) == 0 and utils.exists(0) and not utils.exists(None)


def test_mel_in_the_public_layout() -> None:
    from f5_tts.model.modules import MelSpec

    wave = load_audio(RECORDING, RATE)[None]
    mel = MelSpec()
    expected = LogMel(mel.config)(wave).transpose(1, 2)
    for shaped in (wave[0], wave, wave[:, None]):
        torch.testing.assert_close(mel(shaped), expected)
    assert (mel.n_mel_channels, mel.target_sample_rate) == (BINS, RATE)
    assert MelSpec(mel_spec_type="bigvgan")(wave).shape[2] == expected.shape[2] - 1


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("from f5_tts.model import MMDiT", "the networks here are DiT and UNetT"),
        ("from f5_tts.model import Trainer", "f5-tts train-rl train"),
        ("from f5_tts.model.trainer import Trainer", "f5-tts train-rl train"),
        ("from f5_tts.model.dataset import load_dataset", "f5-tts prepare makes data sets"),
    ],
)
def test_modules_of_forks_say_what_to_use(line: str, advice: str) -> None:
    with pytest.raises(ImportError, match=advice):
        exec(line)


def test_importing_the_model_package_imports_no_network() -> None:
    code = "import sys, f5_tts.model; print('torch' in sys.modules, hasattr(f5_tts.model, 'Nothing'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
