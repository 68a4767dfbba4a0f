from __future__ import annotations

import math
from math import nan

import pytest
import torch
from tests.rewards.gradients import relative_error
from tests.tiny import BIGVGAN_MEL, MINI_MEL, PUBLISHED_MEL
from torch import Tensor

from f5_tts.config.schema import MelSpecConfig
from f5_tts.data.resample import resample
from f5_tts.model.mel import LogMel
from f5_tts.rewards.speaker import voice_features
from f5_tts.rewards.speaker.voice_mel import conversion, normalize_power, to_encoder_frames
from f5_tts.rewards.speaker.voice_sim import VoiceSim
from f5_tts.types import RewardInput

SPECS = {"mini": MINI_MEL, "vocos": PUBLISHED_MEL, "bigvgan": BIGVGAN_MEL}
all_specs = pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))


@pytest.fixture(scope="module")
def voices() -> VoiceSim:
    return VoiceSim()


def log_mel(clip: Tensor, spec: MelSpecConfig) -> Tensor:
    """Compute the log-mel of a clip at 16 kHz."""
    return LogMel(spec)(resample(clip, 16_000, spec.target_sample_rate)[None])[0]


def pair(mel: Tensor, reference: Tensor | None, spec: MelSpecConfig) -> RewardInput:
    """Make the input of a loss, with a reference at 16 kHz."""
    if reference is not None:
        reference = resample(reference, 16_000, spec.target_sample_rate)
    return RewardInput(
        audio=torch.zeros(0),
        sample_rate=spec.target_sample_rate,
        text="",
        reference_audio=reference,
        mel=mel,
        mel_spec=spec,
    )


# --- the loss ---


@all_specs
def test_the_loss_of_recordings_is_that_of_their_waveforms_within_0_1(voices, spoken, spec):
    """Compare with the cosines of the encoder's own features for two voices that say two texts."""
    clips = [spoken(f"{voice}_{words}") for voice in ("low", "high") for words in ("314", "9265")]
    mels = [log_mel(clip, spec) for clip in clips]
    losses = voices.loss([pair(mel, clip, spec) for mel in mels for clip in clips]).view(4, 4)
    units = voices.embed(clips, 16_000)
    exact = 1 - units @ units.T
    others = ~torch.eye(4, dtype=torch.bool)  # a clip and itself: 0 exactly, and 0.05 to 0.2 by the mel
    torch.testing.assert_close(losses[others], exact[others], atol=0.1, rtol=0)
    same_voice = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], dtype=torch.bool)
    assert losses[same_voice].max() < losses[others & ~same_voice].min()


@pytest.mark.slow
@all_specs
def test_its_gradient_agrees_with_finite_differences(spoken, spec):
    voices = VoiceSim()
    mel, reference = log_mel(spoken("low_314"), spec), spoken("high_9265")
    voices.loss([pair(mel, reference, spec)])  # the reference is embedded in single precision, and cached
    voices.encoder.double()
    assert relative_error(lambda x: voices.loss([pair(x, reference, spec)])[0], mel) < 1e-3


def test_a_clip_of_several_windows_counts_all_of_them(voices, spoken):
    clip = torch.cat([spoken("low_314"), spoken("low_9265"), spoken("high_314")])
    mel = log_mel(clip, MINI_MEL).requires_grad_()
    voices.loss([pair(mel, spoken("low_314"), MINI_MEL)]).sum().backward()
    assert mel.grad is not None and mel.grad.abs().sum(dim=1).gt(0).all()


def test_a_loss_does_not_depend_on_the_other_clips(voices, spoken):
    inputs = [
        pair(log_mel(clip, MINI_MEL), spoken("low_9265"), MINI_MEL)
        for clip in (spoken("low_314"), torch.cat([spoken("high_9265")] * 4), spoken("high_314"))
    ]
    alone = torch.cat([voices.loss([item]) for item in inputs])
    torch.testing.assert_close(voices.loss(inputs), alone, atol=1e-5, rtol=0)


def test_clips_without_a_voice_to_match_have_no_loss_and_no_gradient(voices, spoken):
    good, voice = log_mel(spoken("low_314"), MINI_MEL), spoken("low_9265")
    mels = [x.clone().requires_grad_() for x in (good, good, torch.full_like(good, nan), good[:4], good)]
    references = [voice, None, voice, voice, torch.zeros(8000)]
    with pytest.warns(UserWarning, match="worst score"):  # of a reference
        losses = voices.loss([pair(mel, clip, MINI_MEL) for mel, clip in zip(mels, references, strict=True)])
    assert losses.isnan().tolist() == [False, True, True, True, True]
    losses[0].backward()
    assert [mel.grad is not None and bool(mel.grad.any()) for mel in mels] == [True, False, False, False, False]


def test_a_batch_without_any_usable_clip_is_nan(voices, spoken):
    assert voices.loss([pair(torch.zeros(2, 100), spoken("low_314"), MINI_MEL)]).isnan().tolist() == [True]


def test_samples_far_outside_of_speech_have_a_finite_loss(voices, spoken):
    far = torch.randn(50, 100, generator=torch.Generator().manual_seed(0)) * 100
    assert voices.loss([pair(far, spoken("low_314"), MINI_MEL)]).isfinite().all()


def test_a_loss_without_log_mels_says_so(voices, spoken):
    clip = RewardInput(audio=spoken("low_314"), sample_rate=16_000, text="", reference_audio=spoken("low_314"))
    with pytest.raises(ValueError, match="needs mel and mel_spec of each clip, got 0 of 1"):
        voices.loss([clip])


# --- features ---


@pytest.mark.parametrize(("spec", "offset"), [(MINI_MEL, 0.0), (PUBLISHED_MEL, 0.0), (BIGVGAN_MEL, 0.5)])
def test_frames_run_at_100_per_second_and_back_from_the_end(spec, offset):
    """Number the frames: a value is its own position, which rises to the end of the clip and falls again."""
    num = round(0.8 * spec.frames_per_second)
    positions = to_encoder_frames(torch.arange(float(num))[:, None], spec)[:, 0]
    times = torch.arange(160) * 0.01
    duration = num / spec.frames_per_second
    expected = torch.where(times < duration, times, 2 * duration - times) * spec.frames_per_second - offset
    torch.testing.assert_close(positions, expected.clamp(0, num - 1), atol=1e-3, rtol=0)


@all_specs
def test_the_power_of_noise_is_that_of_the_encoders_own_features_within_1_db(spec):
    noise = 0.1 * torch.randn(80_000, generator=torch.Generator().manual_seed(0))
    to_bins, to_bands = conversion(spec)
    bands = (log_mel(noise, spec).double().exp() @ to_bins).square() @ to_bands
    exact = voice_features.mel_power(noise[None])[0].double()
    decibels = 10 * (bands.mean(dim=0) / exact.mean(dim=0)).log10()[:-5]  # resampling takes the highest frequencies
    torch.testing.assert_close(decibels, torch.zeros_like(decibels), atol=1.0, rtol=0)


@all_specs
@pytest.mark.parametrize("dbfs", [-50, -40, -20])
def test_only_clips_below_minus_30_dbfs_are_amplified(spec, dbfs):
    noise = torch.randn(80_000, generator=torch.Generator().manual_seed(0))
    clip = noise / noise.square().mean().sqrt() * 10 ** (dbfs / 20)
    to_bins, _ = conversion(spec)
    power = (log_mel(clip, spec).double().exp() @ to_bins).square()
    gain = 10 * math.log10(normalize_power(power, spec).sum() / power.sum())
    assert gain == pytest.approx(max(0, -30 - dbfs), abs=0.7)
