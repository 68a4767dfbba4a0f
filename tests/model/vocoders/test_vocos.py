from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import yaml
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]
from tests.tiny import PUBLISHED_MEL as PUBLISHED
from torch import Tensor

from f5_tts.config.schema import MelSpecConfig
from f5_tts.model.vocoders.vocos import CONFIG, REPOSITORY, WEIGHTS, Vocos, fetch_vocos, read_vocos

TINY = replace(PUBLISHED, n_mel_channels=6, hop_length=4, win_length=16, n_fft=16)
SIZES = {"dim": 8, "intermediate_dim": 12, "num_layers": 2}


@pytest.fixture
def vocos() -> Vocos:
    """Build a tiny vocoder with random weights but for the window, so that every part of the network has an effect."""
    made, generator = Vocos(TINY, **SIZES), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made.requires_grad_(False)


def mels(lens: list[int], seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, TINY.n_mel_channels, generator=generator) for n in lens]


def batch_of(items: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.nn.utils.rnn.pad_sequence(items, batch_first=True), torch.tensor([len(item) for item in items])


# --- the network ---


def published_shapes() -> dict[str, list[int]]:
    """Return names and shapes of the published vocos-mel-24khz without the two tensors of its mel."""
    bins, dim, inner = 100, 512, 1536

    def linear(name: str, out: int, *into: int) -> dict[str, list[int]]:
        return {f"{name}.weight": [out, *into], f"{name}.bias": [out]}

    shapes = linear("backbone.embed", dim, bins, 7) | linear("backbone.norm", dim)
    for i in range(8):
        block = f"backbone.convnext.{i}"
        shapes |= {f"{block}.gamma": [dim]} | linear(f"{block}.dwconv", dim, 1, 7) | linear(f"{block}.norm", dim)
        shapes |= linear(f"{block}.pwconv1", inner, dim) | linear(f"{block}.pwconv2", dim, inner)
    shapes |= linear("backbone.final_layer_norm", dim) | linear("head.out", 1026, dim)
    return shapes | {"head.istft.window": [1024]}


def test_names_and_shapes_are_those_of_the_published_vocoder():
    with torch.device("meta"):
        vocos = Vocos(PUBLISHED, dim=512, intermediate_dim=1536, num_layers=8)
    assert {name: list(value.shape) for name, value in vocos.state_dict().items()} == published_shapes()
    assert len(published_shapes()) == 83 - 2
    assert sum(parameter.numel() for parameter in vocos.parameters()) == pytest.approx(13.53e6, abs=0.005e6)


def normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt() * weight + bias


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve with seven taps around each frame, zeros before the first and after the last."""
    padded = torch.cat([x.new_zeros(3, x.shape[1]), x, x.new_zeros(3, x.shape[1])])
    taps = [padded[k : k + len(x)] for k in range(7)]
    if weight.shape[1] == 1:
        return sum((tap * weight[:, 0, k] for k, tap in enumerate(taps)), bias)
    return sum((tap @ weight[:, :, k].T for k, tap in enumerate(taps)), bias)


def by_the_paper(weights: dict[str, Tensor], mel: Tensor) -> Tensor:
    """Compute log-magnitudes and phases of one log-mel in double precision, by the formulas of arXiv 2306.00814."""

    def pair(name: str) -> tuple[Tensor, Tensor]:
        return weights[f"{name}.weight"].double(), weights[f"{name}.bias"].double()

    def linear(x: Tensor, name: str) -> Tensor:
        weight, bias = pair(name)
        return x @ weight.T + bias

    x = normed(convolved(mel.double(), *pair("backbone.embed")), *pair("backbone.norm"))
    for i in range(SIZES["num_layers"]):
        block = f"backbone.convnext.{i}"
        inner = linear(normed(convolved(x, *pair(f"{block}.dwconv")), *pair(f"{block}.norm")), f"{block}.pwconv1")
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        x = x + weights[f"{block}.gamma"].double() * linear(inner, f"{block}.pwconv2")
    return linear(normed(x, *pair("backbone.final_layer_norm")), "head.out")


def test_the_spectrum_is_what_the_papers_formulas_give_within_1e_5(vocos):
    (mel,) = mels([11])
    with torch.no_grad():
        for conv in (vocos.backbone.embed, *(block.dwconv for block in vocos.backbone.convnext)):
            for parameter in conv.parameters():
                parameter.mul_(1e-2)  # small enough that the epsilon of the norms has an effect
    spectrum = vocos.head(vocos.backbone(mel[None], torch.ones(1, 11, dtype=torch.bool)))[0]
    log_magnitude, phase = by_the_paper(vocos.state_dict(), mel).T.chunk(2)
    expected = log_magnitude.exp() * (phase.cos() + 1j * phase.sin())
    torch.testing.assert_close(spectrum, expected.to(torch.complex64), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("log_magnitude", "magnitude"), [(math.log(3), 3.0), (50.0, 100.0), (1000.0, 100.0)])
def test_a_bin_that_is_always_on_is_a_sine_with_its_phase_and_no_bin_is_louder_than_100(
    vocos, log_magnitude, magnitude
):
    """Compute the sine by hand.

    One bin of magnitude m gives frames of (2 m / 16) cos. Hann windows a quarter apart sum to 2, their squares to 3 /
    2.
    """
    with torch.no_grad():
        vocos.head.out.weight.zero_()
        vocos.head.out.bias.fill_(-100.0)
        vocos.head.out.bias[4], vocos.head.out.bias[9:] = log_magnitude, 0.3
    (wave,) = vocos(*batch_of(mels([20])))
    time = torch.arange(len(wave), dtype=torch.float64)
    expected = magnitude * 2 / 16 * 2 / 1.5 * torch.cos(2 * math.pi * 4 / 16 * time + 0.3)
    inner = slice(16, -16)  # samples where windows overlap from both sides
    torch.testing.assert_close(wave[inner], expected[inner].float(), atol=1e-6 * magnitude, rtol=0)


def test_an_item_has_a_hop_of_samples_for_every_frame_but_one(vocos):
    waves = vocos(*batch_of(mels([1, 2, 9, 30])))
    assert [len(wave) for wave in waves] == [0, 4, 32, 116]


def test_an_item_sounds_the_same_alone_and_in_a_batch_within_1e_5(vocos):
    items = mels([5, 23, 2, 17])
    for mel, wave in zip(items, vocos(*batch_of(items)), strict=True):
        torch.testing.assert_close(wave, vocos(*batch_of([mel]))[0], atol=1e-5, rtol=0)


def test_frames_past_the_length_are_not_read(vocos):
    mel, lens = batch_of(mels([5, 23]))
    other = mel.clone()
    other[0, 5:] = torch.nan
    for wave, expected in zip(vocos(other, lens), vocos(mel, lens), strict=True):
        assert torch.equal(wave, expected)


def test_the_gradient_of_the_mel_is_the_slope_of_the_audio_and_zero_on_padding(vocos):
    mel, lens = batch_of(mels([7, 12]))
    direction = batch_of(mels([7, 12], seed=2))[0]

    def energy(mel: Tensor) -> Tensor:
        return torch.cat(vocos(mel, lens)).double().square().sum()

    energy(mel.requires_grad_()).backward()
    assert mel.grad is not None and (mel.grad[0, 7:] == 0).all() and mel.grad[0, :7].any(dim=1).all()
    with torch.no_grad():
        slope = (energy(mel + 1e-2 * direction) - energy(mel - 1e-2 * direction)) / 2e-2
    assert (mel.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-2)


def test_gradients_stay_finite_where_a_magnitude_is_cut_off(vocos):
    with torch.no_grad():
        vocos.head.out.bias[:9] = 1000.0  # its exponential overflows
    mel, lens = batch_of(mels([7]))
    torch.cat(vocos(mel.requires_grad_(), lens)).square().sum().backward()
    assert mel.grad is not None and mel.grad.isfinite().all() and mel.grad.any()


def test_a_mel_in_half_precision_gives_audio_in_single(vocos):
    mel, lens = batch_of(mels([7, 12]))
    for wave, expected in zip(vocos(mel.bfloat16(), lens), vocos(mel.bfloat16().float(), lens), strict=True):
        assert wave.dtype == torch.float32 and torch.equal(wave, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_mel_that_is_not_finite_is_refused(value, vocos):
    mel, lens = batch_of(mels([7, 12]))
    mel[1, 3, 5] = value
    with pytest.raises(ValueError, match="cannot be converted to audio: it holds NaN or infinite values"):
        vocos(mel, lens)


# --- loading from a folder ---


def config_of(spec: MelSpecConfig, **changes: Any) -> dict[str, Any]:
    """Return a config.yaml like the published one, for these mels; a change names its key with __ between the parts."""
    fft, hop = spec.n_fft, spec.hop_length
    front = {"sample_rate": spec.target_sample_rate, "n_fft": fft, "hop_length": hop, "n_mels": spec.n_mel_channels}
    head = {"dim": SIZES["dim"], "n_fft": fft, "hop_length": hop, "padding": "center"}
    config: dict[str, Any] = {
        "feature_extractor": {
            "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
            "init_args": front | {"padding": "center"},
        },
        "backbone": {
            "class_path": "vocos.models.VocosBackbone",
            "init_args": {"input_channels": spec.n_mel_channels} | SIZES,
        },
        "head": {"class_path": "vocos.heads.ISTFTHead", "init_args": head},
    }
    for key, value in changes.items():
        *sections, name = key.split("__")
        section = config
        for part in sections:
            section = section[part]
        section[name] = value
    return config


FRONT = {
    "feature_extractor.mel_spec.spectrogram.window": torch.zeros(16),
    "feature_extractor.mel_spec.mel_scale.fb": torch.zeros(9, 6),
}
WriteFolder = Callable[..., Path]


@pytest.fixture
def write_folder(vocos, tmp_path) -> WriteFolder:
    """Return a function that writes the files of a published vocoder, for the tiny one."""

    def write(weights: Any = None, **changes: Any) -> Path:
        tmp_path.joinpath(CONFIG).write_text(yaml.safe_dump(config_of(TINY, **changes)))
        torch.save(vocos.state_dict() | FRONT if weights is None else weights, tmp_path / WEIGHTS)
        return tmp_path

    return write


def refusal(folder: Path, spec: MelSpecConfig = TINY) -> str:
    """Return the error message for a folder, and check that it is one line."""
    with pytest.raises(ValueError) as error:
        read_vocos(folder, spec)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_gives_the_vocoder_that_wrote_it_frozen_and_without_the_weights_of_its_mel(vocos, write_folder):
    read = read_vocos(write_folder(), TINY)
    torch.testing.assert_close(read.state_dict(), vocos.state_dict(), atol=0, rtol=0)
    assert not read.training and not any(parameter.requires_grad for parameter in read.parameters())
    mel, lens = batch_of(mels([7, 12]))
    assert all(torch.equal(a, b) for a, b in zip(read(mel, lens), vocos(mel, lens), strict=True))


def test_weights_in_half_precision_are_read_into_single(vocos, write_folder):
    halves = {name: value.half() for name, value in vocos.state_dict().items()}
    read = read_vocos(write_folder(halves), TINY).state_dict()
    torch.testing.assert_close(dict(read), {name: value.float() for name, value in halves.items()}, atol=0, rtol=0)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named_with_what_to_type(name, write_folder):
    folder = write_folder()
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError) as error:
        read_vocos(folder, TINY)
    assert str(error.value).startswith(f"no {name} in the vocoder's folder {folder}: put {CONFIG} and {WEIGHTS} of ")
    assert "model.vocoder.is_local=true model.vocoder.local_path=FOLDER" in str(error.value)


def test_the_page_of_the_vocoder_is_on_the_hub_that_the_user_has_named(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://mirror.example")  # what HF_ENDPOINT sets
    with pytest.raises(FileNotFoundError, match=f"of https://mirror.example/{REPOSITORY} into a folder"):
        read_vocos(tmp_path, TINY)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no {CONFIG} and no {WEIGHTS} in the vocoder's folder .*gone: "):
        read_vocos(tmp_path / "gone", TINY)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_weights_cut_short_are_refused(share, write_folder):
    path = write_folder() / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert refusal(path.parent).startswith(f"{path} cannot be read as a checkpoint: damaged, or not only weights")


class MakesFolder:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_weights_with_code_in_them_are_refused_and_the_code_does_not_run(write, write_folder):
    folder = write_folder()
    write({"head.out.weight": MakesFolder(folder / "made")}, folder / WEIGHTS)
    assert "not only weights" in refusal(folder)
    assert not (folder / "made").exists()


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"head.out.bias": 3}, [1, 2], torch.zeros(2)])
def test_a_file_that_is_no_state_dict_is_refused(content, write_folder):
    folder = write_folder(content)
    assert refusal(folder).startswith(f"{folder / WEIGHTS} is not a state dict")


def test_weights_of_another_network_are_refused_by_name_and_shape(vocos, write_folder):
    folder = write_folder(vocos.state_dict() | {"head.out.bias": torch.zeros(5), "backbone.extra": torch.zeros(2)})
    message = refusal(folder)
    assert message.startswith(f"{folder / WEIGHTS} is not what its {CONFIG} describes (2 tensors differ; ")
    assert "backbone.extra: nothing here, [2] in the file; head.out.bias: [18] here, [5] in the file" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("feature_extractor__class_path", "vocos.feature_extractors.EncodecFeatures"),
        ("feature_extractor__init_args__padding", "same"),
        ("backbone__class_path", "vocos.models.VocosResNetBackbone"),
        ("head__class_path", "vocos.heads.IMDCTSymExpHead"),
        ("head__init_args__padding", "same"),
        ("head__init_args", None),
        ("backbone", ["a", "list"]),
    ],
)
def test_a_vocos_of_another_kind_is_refused(key, value, write_folder):
    folder = write_folder(**{key: value})
    message = refusal(folder)
    assert message.startswith(f"{folder / CONFIG} has {key.replace('__', '.')}")
    assert f"the vocoder built in is that of {REPOSITORY}, " in message


@pytest.mark.parametrize(
    ("key", "own", "value"),
    [
        ("feature_extractor.init_args.sample_rate", "target_sample_rate", 24000),
        ("feature_extractor.init_args.n_fft", "n_fft", 16),
        ("feature_extractor.init_args.n_fft", "win_length", 16),
        ("feature_extractor.init_args.hop_length", "hop_length", 4),
        ("feature_extractor.init_args.n_mels", "n_mel_channels", 6),
    ],
)
def test_a_vocoder_of_other_mels_is_refused_with_both_keys_and_values(key, own, value, write_folder):
    message = refusal(write_folder(), replace(TINY, **{own: 2 * value}))
    assert (
        f"{CONFIG} has {key}={value}, the run model.mel_spec.{own}={2 * value}, and a vocoder converts only" in message
    )


@pytest.mark.parametrize(
    ("key", "own"),
    [
        ("backbone__init_args__input_channels", "n_mel_channels=6"),
        ("head__init_args__n_fft", "n_fft=16"),
        ("head__init_args__hop_length", "hop_length=4"),
        ("feature_extractor__init_args__n_mels", "n_mel_channels=6"),
    ],
)
@pytest.mark.parametrize("value", [32, None, "16"])
def test_every_size_in_the_file_that_is_not_the_runs_is_found(key, own, value, write_folder):
    message = refusal(write_folder(**{key: value}))
    assert f"{CONFIG} has {key.replace('__', '.')}={value}, the run model.mel_spec.{own}, " in message


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, None, "8", 2.5])
def test_a_size_of_the_network_that_is_no_count_is_refused(name, value, write_folder):
    message = refusal(write_folder(**{f"backbone__init_args__{name}": value}))
    assert f"has backbone.init_args.{name}={value}; it is a whole number, 1 or more" in message


def test_a_page_in_place_of_the_config_is_refused(write_folder):
    folder = write_folder()
    for text in ("<!DOCTYPE html>\n<p>not\n  found: here: there", "a: [1,\n", "!!python/object/apply:os.getcwd []"):
        (folder / CONFIG).write_text(text)
        assert refusal(folder).startswith(f"{folder / CONFIG} is not YAML (")
    (folder / CONFIG).write_bytes(b"\xff\xfe\x00")
    assert refusal(folder).startswith(f"{folder / CONFIG} is not YAML (")
    (folder / CONFIG).write_text("Repository not found")
    assert refusal(folder).startswith(f"{folder / CONFIG} has feature_extractor.class_path=None; ")


# --- loading from the hub ---


@pytest.fixture
def offline_cache(tmp_path, monkeypatch) -> Path:
    """Set an empty cache for the hub's library, and set the library offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_in_cache(cache: Path, *names: str) -> Path:
    """Create empty files in the cache's layout of the hub's library, and return their folder."""
    root, revision = cache / f"models--{REPOSITORY.replace('/', '--')}", "0" * 40
    snapshot = root / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(revision)
    for name in names:
        (snapshot / name).touch()
    return snapshot


@pytest.mark.parametrize("cached", [(), (CONFIG,)], ids=["nothing", "half"])
def test_without_network_and_files_one_sentence_says_what_to_do_by_hand(cached, offline_cache):
    put_in_cache(offline_cache, *cached)
    with pytest.raises(FileNotFoundError) as error:
        fetch_vocos()
    message = str(error.value)
    assert f" of {REPOSITORY} could not be downloaded (" in message
    for step in (f"put {CONFIG} and {WEIGHTS} of", "local_path=FOLDER", "or use model.vocoder.name=griffin_lim"):
        assert step in message
    assert "\n" not in message


@pytest.mark.parametrize("error", [OSError("disk is full\nat once"), HTTPError("connection dropped.")])
def test_a_download_that_breaks_off_is_the_same_sentence_with_its_reason(error, monkeypatch):
    def fails(repository: str, name: str, **_: object) -> str:
        raise error

    monkeypatch.setattr("f5_tts.download.hub.ask_once", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails)
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded \((disk is full|connection dropped)\): put "):
        fetch_vocos()


def test_files_that_were_fetched_before_are_found_without_network(offline_cache):
    snapshot = put_in_cache(offline_cache, CONFIG, WEIGHTS)
    assert fetch_vocos() == snapshot
