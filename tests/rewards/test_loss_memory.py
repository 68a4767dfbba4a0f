"""Memory of the losses of rewards, as their classes tell it to the estimate of a run."""

from __future__ import annotations

import math

import pytest
import torch
from tests.rewards.sensevoice import sized_sensevoice
from tests.tiny import MINI_MEL, PUBLISHED_MEL
from torch._subclasses import FakeTensorMode

from f5_tts.config.schema import MelSpecConfig
from f5_tts.estimate.live_bytes import PeakMemoryCounter
from f5_tts.rewards.asr.digits_ctc import DigitsCtc
from f5_tts.rewards.asr.funasr_wer import FunasrWer
from f5_tts.rewards.audio import resample_to_16k
from f5_tts.rewards.speaker.fbank import kaldi_fbank
from f5_tts.rewards.speaker.resnet import ResNet34
from f5_tts.rewards.speaker.voice_sim import VoiceSim
from f5_tts.rewards.speaker.wespeaker_sim import WespeakerSim
from f5_tts.types import RewardInput

MIB = 2**20


def front_end_mib(seconds: float) -> float:
    """Measure what the features of a clip at 24 kHz keep for the backward pass."""
    clip = torch.zeros(round(24_000 * seconds), requires_grad=True)
    with PeakMemoryCounter() as counter:
        features = kaldi_fbank(resample_to_16k(clip, 24_000))
        kept = counter.current / MIB
    assert features.requires_grad
    return kept


@pytest.mark.parametrize("seconds", [4.0, 30.0])
def test_the_memory_of_the_loss_of_wespeaker_sim_is_the_one_that_is_written_down(seconds: float):
    frames = round(100 * seconds) - 2
    with FakeTensorMode():
        network = ResNet34(80, 256, 32, False).eval().requires_grad_(False)
        features = torch.zeros(1, frames, 80, requires_grad=True)
        with PeakMemoryCounter() as counter:
            network(features, torch.tensor([frames])).sum().backward()
    measured = counter.peak / MIB + front_end_mib(seconds)
    assert WespeakerSim.loss_mib(seconds, 1) == pytest.approx(measured, rel=0.05)


@pytest.mark.slow  # importing funasr takes ten seconds
@pytest.mark.parametrize("seconds", [8.0, *(pytest.param(other, marks=pytest.mark.soak) for other in (4.0, 30.0))])
def test_the_memory_of_the_loss_of_funasr_wer_is_the_one_that_is_written_down(
    states_around_import: object, seconds: float
):
    """Measure the published size; squares stand for the CTC loss, with as many gradients."""
    frames = math.ceil((100 * seconds - 2) / 6)
    with FakeTensorMode():
        network = sized_sensevoice(25_055).eval().requires_grad_(False)
        features = torch.zeros(1, frames + 4, 560, requires_grad=True)
        with PeakMemoryCounter() as counter:
            hidden, _ = network.encoder(features + 0, torch.tensor([frames + 4]))
            network.ctc.log_softmax(hidden).square().sum().backward()
    measured = counter.peak / MIB + front_end_mib(seconds)
    assert FunasrWer.loss_mib(seconds, 1) == pytest.approx(measured, rel=0.05)
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(FunasrWer.num_parameters, rel=1e-3)


def mel_inputs(seconds: float, num: int, spec: MelSpecConfig) -> list[RewardInput]:
    """Make inputs of silence with a gradient in their log-mel."""
    frames, rate = round(seconds * spec.frames_per_second), spec.target_sample_rate
    return [
        RewardInput(
            audio=torch.zeros(0),
            sample_rate=rate,
            text="one",
            reference_audio=torch.ones(rate),
            mel=torch.zeros(frames, spec.n_mel_channels, requires_grad=True),
            mel_spec=spec,
        )
        for _ in range(num)
    ]


@pytest.mark.parametrize(("reward", "spec"), [(VoiceSim, PUBLISHED_MEL), (DigitsCtc, MINI_MEL)])
def test_the_memory_of_losses_of_the_log_mel_is_the_one_that_is_written_down(reward: type, spec: MelSpecConfig):
    built, inputs = reward(), mel_inputs(4.0, 2, spec)
    built.loss(inputs)  # embeds the reference
    with PeakMemoryCounter() as counter:
        built.loss(inputs).sum().backward()
    assert reward.loss_mib(4.0, 2) == pytest.approx(counter.peak / MIB, rel=0.2)  # windows of 1.6 s
