from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.rewards.gradients import relative_error
from tests.rewards.wespeaker import change_config, make_directory, published_shapes, random_weights
from torch import Tensor
from torch.nn import functional as F

from f5_tts.config.schema import ProviderConfig
from f5_tts.data.resample import resample
from f5_tts.rewards.registry import build_providers
from f5_tts.rewards.speaker.fbank import kaldi_fbank
from f5_tts.rewards.speaker.resnet import statistics
from f5_tts.rewards.speaker.wespeaker_sim import MAX_BATCH, WespeakerSim
from f5_tts.types import RewardInput

make_small = partial(make_directory, m_channels=4, embed_dim=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_small(tmp_path_factory.mktemp("wespeaker"))


@pytest.fixture(scope="module")
def reward(folder) -> WespeakerSim:
    return WespeakerSim(str(folder))


def sound(num_samples: int, seed: int = 0, pitch: float = 200) -> Tensor:
    """Generate a tone of varying loudness with a little noise."""
    noise = torch.randn(2, num_samples, generator=torch.Generator().manual_seed(seed))
    loudness = F.avg_pool1d(noise[:1], 801, stride=1, padding=400, count_include_pad=False)[0].abs()
    tone = torch.sin(2 * torch.pi * pitch / 16_000 * torch.arange(num_samples))
    return 3 * loudness * tone + 0.01 * noise[1]


def pair(audio: Tensor, reference: Tensor | None) -> RewardInput:
    return RewardInput(audio=audio, sample_rate=16_000, text="", reference_audio=reference)


# --- scores ---


def test_a_clip_is_its_own_voice_and_another_sound_is_less_so(reward):
    low, high = sound(16_000), sound(16_000, seed=1, pitch=2000)
    same, other = reward.score([pair(low, low), pair(high, low)])["sim"].tolist()
    assert same == pytest.approx(1.0, abs=1e-6)
    assert -1 <= other < 0.9999


def test_the_reward_is_the_cosine_itself_not_what_wespeaker_makes_of_it(reward):
    clip, reference = sound(16_000), sound(12_000, seed=1, pitch=2000)
    vectors = reward.encode([clip, reference]).double()
    expected = F.cosine_similarity(vectors[0], vectors[1], dim=0)
    result = reward.score([pair(clip, reference)])["sim"].double()
    torch.testing.assert_close(result, expected[None], atol=1e-6, rtol=0)


def test_loudness_does_not_count(reward):
    clip = sound(16_000)
    quiet, loud = reward.encode([0.05 * clip, clip])
    torch.testing.assert_close(quiet, loud, atol=1e-4, rtol=0)


def test_clips_of_any_length_are_embedded_together_as_one_by_one(reward):
    """Embed clips from 0.1 s, which is one frame after the last layer, to 3 s.

    There is more than one batch, the clips are not sorted, and their number is not a multiple of the batch size.
    """
    lengths = [9_000, 1_600, 48_000, 1_680, 20_000, 3_333, 31_000, 16_000, 5_000]
    assert len(lengths) > 2 * MAX_BATCH
    clips = [sound(num, seed=i, pitch=150 * (i + 1)) for i, num in enumerate(lengths)]
    alone = torch.cat([reward.encode([clip]) for clip in clips])
    torch.testing.assert_close(reward.encode(clips), alone, atol=1e-5, rtol=0)
    assert torch.cdist(alone, alone).add(torch.eye(len(clips))).min() > 1e-3  # so that swapped clips would be detected


@pytest.mark.parametrize("two_emb_layer", [False, True])
def test_the_vector_is_what_the_published_network_makes_of_the_published_features(tmp_path, two_emb_layer):
    """Compare with WeSpeaker's network for one clip without masks, written from the names of the tensors alone."""
    folder = make_small(tmp_path, two_emb_layer=two_emb_layer)
    clip = sound(8_000)
    bands = kaldi_fbank(clip * 2**15)
    expected = plain_embedding(torch.load(folder / "avg_model.pt", weights_only=True), bands - bands.mean(dim=0))
    result = WespeakerSim(str(folder)).encode([clip])[0]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def plain_embedding(w: dict[str, Tensor], bands: Tensor) -> Tensor:
    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        kernel = w[f"{name}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return normed(x, norm)

    def normed(x: Tensor, name: str) -> Tensor:
        weight, bias = w.get(f"{name}.weight"), w.get(f"{name}.bias")
        return F.batch_norm(x, w[f"{name}.running_mean"], w[f"{name}.running_var"], weight, bias)

    x = conv(bands.T[None, None], "conv1", "bn1").relu()
    for layer, num in (("layer1", 3), ("layer2", 4), ("layer3", 6), ("layer4", 3)):
        for block in (f"{layer}.{i}" for i in range(num)):
            stride = 2 if block in ("layer2.0", "layer3.0", "layer4.0") else 1
            inner = conv(x, f"{block}.conv1", f"{block}.bn1", stride).relu()
            if stride == 2:
                x = conv(x, f"{block}.shortcut.0", f"{block}.shortcut.1", stride)
            x = (conv(inner, f"{block}.conv2", f"{block}.bn2") + x).relu()
    pooled = torch.cat([x.mean(dim=3).flatten(), (x.var(dim=3) + 1e-7).sqrt().flatten()])
    vector = F.linear(pooled, w["seg_1.weight"], w["seg_1.bias"])
    if "seg_2.weight" not in w:
        return vector
    return F.linear(normed(vector.relu()[None], "seg_bn_1")[0], w["seg_2.weight"], w["seg_2.bias"])


def test_pooling_takes_mean_and_unbiased_deviation_of_the_kept_frames():
    """Expect mean 2 and deviation sqrt(2) of 1, 3, and 5 and sqrt(3) of 4, 4, 7.

    The deviation of one frame is 0.
    """
    x = torch.tensor([[1.0, 3.0, 99.0], [4.0, 4.0, 7.0], [6.0, 99.0, 99.0]])[:, None, None]
    kept = torch.tensor([[1.0, 1, 0], [1, 1, 1], [1, 0, 0]])[:, None, None]
    expected = torch.tensor([[2, 2**0.5], [5, 3**0.5], [6, 0]])
    torch.testing.assert_close(statistics(x * kept, kept), expected, atol=4e-4, rtol=0)


def test_dither_in_the_config_changes_nothing(tmp_path, reward):
    folder = make_small(tmp_path)
    change_config(folder, "dataset_args.fbank_args.dither", 0.0)
    assert torch.equal(WespeakerSim(str(folder)).encode([sound(8_000)]), reward.encode([sound(8_000)]))


class Counted(WespeakerSim):
    """Reward that counts the clips that it has embedded."""

    num = 0

    def encode(self, clips: list[Tensor]) -> Tensor:
        self.num += len(clips)
        return super().encode(clips)


def test_a_group_has_its_reference_embedded_once_and_the_next_update_not_at_all(folder):
    counted, reference = Counted(str(folder)), sound(8_000)
    group = [pair(sound(4_000, seed=i), reference.clone()) for i in range(4)]
    counted.score(group)
    assert counted.num == 4 + 1
    counted.score(group)
    assert counted.num == 2 * 4 + 1


def test_a_clip_without_sound_scores_worst_and_is_counted(reward):
    clip = sound(8_000)
    with pytest.warns(UserWarning, match="worst score"):
        scores = reward.score(
            [pair(torch.zeros(8_000), clip), pair(clip, clip), pair(clip[:100], clip), pair(clip, None)]
        )
    torch.testing.assert_close(scores["sim"], torch.tensor([-1, 1, -1, torch.nan]), equal_nan=True)
    assert scores["unusable"].tolist() == [1, 0, 1, 0]


# --- process state ---


def test_nothing_random_is_drawn_and_no_thread_count_is_changed(folder):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    WespeakerSim(str(folder)).score([pair(sound(8_000), sound(4_000))])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_callers_autocast_and_gradients_stay_outside(reward):
    expected = reward.score([pair(sound(8_000), sound(4_000))])["sim"]
    audio = sound(8_000).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        result = reward.score([pair(audio, sound(4_000))])["sim"]
    assert torch.equal(result, expected) and not result.requires_grad
    assert not any(weight.requires_grad for weight in reward.network.parameters())


# --- model folder ---


def test_a_folder_of_the_published_sizes_loads_strictly(tmp_path):
    shapes = published_shapes(32, 80, 256, two_emb_layer=False)
    assert shapes["seg_1.weight"] == (256, 5120)
    network = WespeakerSim(str(make_directory(tmp_path))).network
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == shapes
    assert sum(weight.numel() for weight in network.parameters()) == 6_634_336
    saved = torch.load(tmp_path / "avg_model.pt", weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_weights_may_be_wrapped_and_of_half_precision(tmp_path, reward, wrapper):
    folder = make_small(tmp_path)
    weights = torch.load(folder / "avg_model.pt", weights_only=True)
    torch.save({wrapper: {name: value.half() for name, value in weights.items()}}, folder / "avg_model.pt")
    result = WespeakerSim(str(folder)).encode([sound(8_000)])
    torch.testing.assert_close(result, reward.encode([sound(8_000)]), atol=0.02, rtol=0)


def test_a_config_may_leave_out_what_goes_without_saying(tmp_path, reward):
    folder = make_small(tmp_path)
    model_args = {"feat_dim": 80, "embed_dim": 16, "m_channels": 4}
    (folder / "config.yaml").write_text(f"model: ResNet34\nmodel_args: {model_args}\nsomething: {{of: its own}}\n")
    assert torch.equal(WespeakerSim(str(folder)).encode([sound(8_000)]), reward.encode([sound(8_000)]))


def test_the_config_entry_of_the_guide_builds_it(folder):
    entry = ProviderConfig(name="wespeaker_sim", weight=1.0, floor=0.0, config={"model_dir": str(folder)}, worker=None)
    (provider,) = build_providers([entry]).values()
    assert isinstance(provider, WespeakerSim) and provider.component == "sim"


@pytest.mark.parametrize("inside", [".", "cnceleb_resnet34", "chinese"])
def test_without_model_dir_it_lies_in_wespeaker_home(tmp_path, monkeypatch, inside):
    make_small(tmp_path / inside)
    monkeypatch.setenv("WESPEAKER_HOME", str(tmp_path))
    assert WespeakerSim().network.feat_dim == 80


FETCH = (
    r"f5-tts fetch speaker --cache_dir checkpoints/wespeaker/cnceleb_resnet34 and set "
    r"config\.model_dir to checkpoints/wespeaker/cnceleb_resnet34/cnceleb_resnet34"
)


@pytest.mark.parametrize("home, said", [(None, "is not set either"), ("nowhere", "=nowhere holds no model")])
def test_without_any_folder_the_message_says_what_to_type(monkeypatch, home, said):
    monkeypatch.delenv("WESPEAKER_HOME", raising=False)
    if home:
        monkeypatch.setenv("WESPEAKER_HOME", home)
    with pytest.raises(FileNotFoundError, match=rf"config\.model_dir is not set, and WESPEAKER_HOME.*{said}.*{FETCH}"):
        WespeakerSim()


def test_an_incomplete_folder_says_what_is_missing_and_the_outer_folder_which_one_to_give(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=rf"no config\.yaml and no avg_model\.pt in config\.model_dir=.*{FETCH}"
    ):
        WespeakerSim(str(tmp_path))
    inner = make_small(tmp_path / "cnceleb_resnet34")
    with pytest.raises(FileNotFoundError, match=rf"they are in {inner}: give that folder"):
        WespeakerSim(str(tmp_path))
    (inner / "avg_model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"no avg_model\.pt in config\.model_dir={inner}; run: {FETCH}"):
        WespeakerSim(str(inner))


@pytest.mark.parametrize("device", ["cuda:99", "the moon"])
def test_a_device_that_is_not_here_is_refused(folder, device):
    with pytest.raises(
        ValueError, match=rf"wespeaker_sim: config\.device={device} cannot be used here.*cpu always works"
    ):
        WespeakerSim(str(folder), device=device)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("model", "ECAPA_TDNN_GLOB_c512", r"model: ECAPA_TDNN_GLOB_c512; of WeSpeaker's networks ResNet34 alone"),
        ("model", None, "model: None; of WeSpeaker's networks ResNet34 alone"),
        ("model_args", None, "no section model_args"),
        ("model_args.pooling_func", "ASTP", "pooling_func: ASTP; it must be TSTP"),
        ("model_args.two_emb_layer", "no", "two_emb_layer: no; it must be true or false"),
        ("model_args.feat_dim", 42, "feat_dim: 42; it must be a multiple of 8"),
        ("model_args.embed_dim", "wide", "embed_dim: wide; it must be a whole number"),
        ("model_args.m_channels", 0, "m_channels: 0; it must be a whole number"),
        ("model_args.base_width", 26, "model_args base_width; known are feat_dim, embed_dim, m_channels"),
        ("dataset_args.frontend", "s3prl", r"frontend: s3prl.*fbank-only.*s3prl, whisper or peft.*fbank model"),
        ("dataset_args.resample_rate", 8000, "resample_rate: 8000, but features are computed with 16000"),
        ("dataset_args.fbank_args.num_mel_bins", 40, "num_mel_bins: 40, but features are computed with 80"),
        ("dataset_args.fbank_args.frame_shift", 20, "frame_shift: 20, but features are computed with 10"),
        ("dataset_args.fbank_args.frame_length", 32, "frame_length: 32, but features are computed with 25"),
        ("dataset_args.cmvn", False, "cmvn: False, but features are computed with True"),
        ("dataset_args.cmvn_args.norm_var", True, "norm_var: True, but features are computed with False"),
    ],
)
def test_a_config_of_another_network_or_of_other_features_is_refused(tmp_path, key, value, message):
    folder = make_small(tmp_path)
    change_config(folder, key, value)
    with pytest.raises(ValueError, match=rf"config\.yaml has .*{message}.*use cnceleb_resnet34: f5-tts fetch"):
        WespeakerSim(str(folder))


def test_a_config_that_is_not_yaml_is_refused(tmp_path):
    (make_small(tmp_path) / "config.yaml").write_text("model: [")
    with pytest.raises(ValueError, match=r"config\.yaml is not YAML"):
        WespeakerSim(str(tmp_path))


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("m_channels", 8, r"181 tensors differ; bn1\.bias: \[8\] here, \[4\] in the file"),
        ("embed_dim", 32, r"2 tensors differ; seg_1\.bias: \[32\] here, \[16\] in the file"),
        ("feat_dim", 40, r"1 tensors differ; seg_1\.weight: \[16, 320\] here, \[16, 640\] in the file"),
        ("two_emb_layer", True, r"seg_2\.bias: \[16\] here, nothing in the file"),
    ],
)
def test_weights_of_other_sizes_are_one_error_with_both_shapes(tmp_path, key, value, message):
    folder = make_small(tmp_path)
    change_config(folder, f"model_args.{key}", value)
    if key == "feat_dim":
        change_config(folder, "dataset_args.fbank_args.num_mel_bins", value)
    with pytest.raises(ValueError, match=rf"avg_model\.pt is not what its config\.yaml describes .*{message}"):
        WespeakerSim(str(folder))


def without(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: without(w, "bn1.bias"), r"1 tensors differ; bn1\.bias: \[4\] here, nothing in the file"),
        (lambda w: w | {"extra": torch.zeros(2)}, r"extra: nothing here, \[2\] in the file"),
        (lambda w: w | {"seg_1.bias": torch.full((16,), torch.nan)}, r"seg_1\.bias is not finite"),
        (lambda w: {"model": [1, 2]}, r"is not a state dict"),
        (
            lambda w: {"model": Path("x")},
            r"cannot be read as a checkpoint: .*objects that cannot be loaded without running code",
        ),
    ],
)
def test_weights_that_lack_something_or_hold_more_are_refused(tmp_path, change: Callable, message):
    path = make_small(tmp_path) / "avg_model.pt"
    torch.save(change(random_weights(published_shapes(4, 80, 16, False))), path)
    with pytest.raises(ValueError, match=message):
        WespeakerSim(str(tmp_path))


def test_half_a_file_of_weights_is_refused(tmp_path):
    path = make_small(tmp_path) / "avg_model.pt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"avg_model\.pt cannot be read as a checkpoint: damaged"):
        WespeakerSim(str(tmp_path))


# --- the loss ---


def test_the_loss_is_one_minus_the_cosine(reward):
    clip, reference = sound(16_000), sound(12_000, seed=1, pitch=2000)
    losses = reward.loss([pair(clip, reference), pair(clip, clip)])
    torch.testing.assert_close(losses, 1 - reward.score([pair(clip, reference), pair(clip, clip)])["sim"])


@pytest.mark.parametrize("two_emb_layer", [False, True])
def test_the_gradient_agrees_with_finite_differences(tmp_path, two_emb_layer):
    reward = WespeakerSim(str(make_small(tmp_path, two_emb_layer=two_emb_layer)))
    clip, reference = sound(4_000), sound(12_000, seed=1, pitch=2000)
    reward.loss([pair(clip, reference)])  # the reference is embedded in single precision, and cached
    reward.network.double()
    error = relative_error(lambda wave: reward.loss([pair(wave, reference)])[0], clip, step=1e-7)
    assert error < 1e-3


def test_a_clip_at_24_khz_is_resampled_with_its_gradient(reward):
    clip = resample(sound(16_000), 16_000, 24_000).requires_grad_()
    item = RewardInput(audio=clip, sample_rate=24_000, text="", reference_audio=clip.detach())
    (loss,) = reward.loss([item])
    assert loss.item() == pytest.approx(0, abs=1e-2)  # the reference takes another filter to 16 kHz
    (gradient,) = torch.autograd.grad(loss, clip)
    assert gradient.isfinite().all() and gradient.any()


def test_clips_without_a_voice_to_match_have_no_loss_and_no_gradient(reward):
    good = sound(8_000)
    audio = [x.clone().requires_grad_() for x in (good, good, torch.zeros(8_000), good[:1_000], good)]
    references = [good, None, good, good, torch.zeros(8_000)]
    with pytest.warns(UserWarning, match="worst score"):  # of a reference
        losses = reward.loss([pair(clip, voice) for clip, voice in zip(audio, references, strict=True)])
    assert losses.isnan().tolist() == [False, True, True, True, True]
    losses[0].backward()
    assert [clip.grad is not None for clip in audio] == [True, False, False, False, False]
