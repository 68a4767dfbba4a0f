from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
import soxr
import torch
from torch import Tensor
from torch.nn import functional as F

from f5_tts.config.schema import ProviderConfig
from f5_tts.data.audio import load_audio
from f5_tts.model.mel import LogMel
from f5_tts.rewards.asr.ctc import ctc_nll
from f5_tts.rewards.asr.digits_ctc import CKPTS, DigitsCtc
from f5_tts.rewards.asr.digits_network import MEL_SPEC, WORDS, phone_labels, word_labels
from f5_tts.rewards.registry import build_providers, provider_loss, provider_scores
from f5_tts.types import DifferentiableReward, RewardInput

ROOT = Path(__file__).parents[3]
PROMPTS = [json.loads(line) for line in (ROOT / "data/mini_custom/dev.jsonl").read_text().splitlines()]
# one recording per file, of voices and texts that the recognizers were not trained on
RECORDINGS = {row["prompt_audio"]: row["prompt_text"] for row in PROMPTS if not row["seen"]}


@pytest.fixture(scope="module")
def reward() -> DigitsCtc:
    return DigitsCtc()


@pytest.fixture(scope="module")
def dense() -> DigitsCtc:
    return DigitsCtc(component="fit")


@pytest.fixture(scope="module")
def recordings() -> list[RewardInput]:
    """Return ten recordings with their texts, of two to three words, and their log-mels."""
    log_mel, inputs = LogMel(MEL_SPEC), []
    for path, text in RECORDINGS.items():
        wave = load_audio(ROOT / path, 16_000)
        mel = log_mel(wave[None])[0]
        inputs.append(RewardInput(audio=wave, sample_rate=16_000, text=text, mel=mel, mel_spec=MEL_SPEC))
    return inputs


def with_words(item: RewardInput, words: Sequence[str]) -> RewardInput:
    return replace(item, text=" ".join(words))


def with_mel(item: RewardInput, mel: Tensor) -> RewardInput:
    return replace(item, mel=mel)


def torch_nll(log_probs: Tensor, labels: list[int]) -> Tensor:
    lens = torch.tensor(len(log_probs)), torch.tensor(len(labels))
    return F.ctc_loss(log_probs, torch.tensor(labels), *lens, reduction="sum")


# --- transcripts and scores ---


def test_it_is_a_reward_with_a_gradient_known_by_its_name():
    provider = build_providers([ProviderConfig(name="digits_ctc", config={"component": "fit"})])["digits_ctc"]
    assert isinstance(provider, DigitsCtc) and isinstance(provider, DifferentiableReward)
    assert (provider.takes, provider.component) == ("mel", "fit")


def test_recordings_of_voices_never_heard_are_understood(reward, recordings):
    scores = reward.score(recordings)
    assert len(recordings) == 10
    assert scores["heard"] == [item.text for item in recordings]
    assert scores["acc"].tolist() == [1.0] * 10 and scores["wer"].tolist() == [0.0] * 10


def test_clips_of_24_khz_are_resampled(reward, recordings):
    clips = [torch.from_numpy(soxr.resample(item.audio.numpy(), 16_000, 24_000)) for item in recordings]
    inputs = [replace(item, audio=clip, sample_rate=24_000) for item, clip in zip(recordings, clips, strict=True)]
    assert reward.score(inputs)["heard"] == [item.text for item in recordings]


def test_words_earn_what_was_heard_of_them_in_the_clip_after_its_prompt(reward, spoken):
    text, clip, prompt = "nine two six five three one five", spoken("low_314"), spoken("low_9265")
    item = RewardInput(audio=clip, prompt_audio=prompt, sample_rate=16_000, text=text)
    scores = reward.score([item, replace(item, text="nine two")])
    expected = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [1, -4, *[nan] * 5]])  # five words inserted after "two"
    torch.testing.assert_close(scores["words"], expected, equal_nan=True)
    assert scores["heard"] == ["nine two six five three one four"] * 2


@pytest.mark.parametrize("component", ["acc", "fit"])
def test_where_no_word_is_written_no_score_applies_whatever_is_heard(component, recordings):
    noise = 0.01 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    inputs = [replace(recordings[0], audio=clip, text="?!") for clip in (noise, recordings[0].audio)]
    scores = DigitsCtc(component=component).score(inputs)
    assert scores[component].isnan().all() and scores["words"].shape == (2, 0)


def test_clips_without_sound_score_worst_and_leave_their_neighbors_alone(dense, recordings):
    good = recordings[0]
    clips = [torch.zeros(0), good.audio, torch.full((8000,), nan), torch.zeros(8000)]
    with pytest.warns(UserWarning, match="worst score"):
        scores = dense.score([replace(good, audio=clip) for clip in clips])
    assert scores["acc"].tolist() == [0.0, 1.0, 0.0, 0.0] and scores["unusable"].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert scores["fit"][[0, 2, 3]].tolist() == [-6.0] * 3 and scores["words"][[0, 2, 3]].unique().tolist() == [-6.0]
    alone = dense.score([good])
    for name in ("fit", "words"):
        torch.testing.assert_close(scores[name][1:2], alone[name])


def test_all_clips_without_sound_are_scored_too(dense, recordings):
    with pytest.warns(UserWarning, match="worst score"):
        scores = dense.score([replace(recordings[0], audio=torch.zeros(8000))])
    assert scores["fit"].tolist() == [-6.0] and scores["heard"] == [""]


@pytest.mark.parametrize("text", ["three apples", "15", "hello"])
def test_a_text_that_is_no_digits_is_refused_by_name(reward, recordings, text):
    inputs = [*recordings[:2], replace(recordings[2], text=text)]
    for method in (reward.score, reward.loss):
        with pytest.raises(ValueError, match=f"knows the words zero to nine only, and the text '{text}' has "):
            method(inputs)


def test_case_and_punctuation_of_a_text_do_not_matter(reward, recordings):
    item = recordings[0]
    spelled = replace(item, text=", ".join(item.text.split()).title() + ".")
    assert torch.equal(reward.score([spelled])["fit"], reward.score([item])["fit"])
    assert torch.equal(reward.loss([spelled]), reward.loss([item]))


# --- loss ---


def test_the_loss_is_the_limited_likelihood_of_words_and_half_of_the_phones_averaged_over_the_recognizers(
    reward, recordings
):
    item = recordings[0]
    words, losses = item.text.split(), []
    for network in reward.recognizers:
        by_word, by_phone = network(item.mel[None], torch.tensor([len(item.mel)]))
        nll = torch_nll(by_word[0], word_labels(words)) + torch_nll(by_phone[0], phone_labels(words)) / 2
        losses.append(6 * torch.tanh(nll / len(words) / 6))
    torch.testing.assert_close(reward.loss([item]), torch.stack(losses).mean()[None])


def test_its_gradient_agrees_with_finite_differences_in_float64(recordings):
    reward = DigitsCtc()
    for network in reward.recognizers:
        network.double()
    generator = torch.Generator().manual_seed(0)
    mels = [item.mel.double().clamp(-11.4, 5.9) for item in recordings[:3]]  # off the limits, where the slope jumps
    mels[1] = mels[1] + torch.randn(mels[1].shape, generator=generator).clamp(-3, 3).double() * 0.3  # unclear speech
    mels[1] = mels[1].clamp(-11.4, 5.9)
    inputs = [with_mel(item, mel.requires_grad_()) for item, mel in zip(recordings, mels, strict=False)]
    inputs[2] = with_words(inputs[2], ["zero", "seven"])  # a wrong text, near the cap
    gradients = torch.autograd.grad(reward.loss(inputs).sum(), mels)
    for item, mel, gradient in zip(inputs, mels, gradients, strict=True):
        noise = torch.randn(mel.shape, generator=generator).double()
        direction = gradient / gradient.norm() + noise / noise.norm()
        step = 1e-5 * direction
        with torch.no_grad():
            ahead, behind = (reward.loss([with_mel(item, mel + sign * step)]) for sign in (1, -1))
        difference = (ahead - behind).item() / 2e-5
        assert difference == pytest.approx((gradient * direction).sum().item(), rel=1e-3)


def test_padding_changes_neither_losses_nor_gradients(reward, recordings):
    mels = [item.mel.clone().requires_grad_() for item in recordings]
    inputs = [with_mel(item, mel) for item, mel in zip(recordings, mels, strict=True)]
    together, alone = reward.loss(inputs), torch.cat([reward.loss([item]) for item in inputs])
    assert len({len(mel) for mel in mels}) > 3
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    for one, other in zip(*(torch.autograd.grad(loss.sum(), mels) for loss in (together, alone)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_the_loss_of_a_log_mel_is_the_negative_fit_of_its_audio(dense, recordings):
    torch.testing.assert_close(dense.score(recordings)["fit"], -dense.loss(recordings))


def test_a_prompt_of_the_same_clip_is_heard_before_the_span(reward, recordings):
    for item in recordings:
        frames = len(item.mel) // 3
        prompt, span = item.audio[: frames * MEL_SPEC.hop_length], item.mel[frames:].clone().requires_grad_()
        cut = replace(item, prompt_audio=prompt, mel=span, audio=torch.zeros(0))
        assert reward.heard_mel(cut).shape == item.mel.shape
        loss = reward.loss([cut])
        torch.testing.assert_close(loss, reward.loss([item]), atol=0.05, rtol=0)  # a window at the cut differs
        assert loss.requires_grad


def test_a_prompt_shorter_than_a_window_is_heard_too(reward, recordings):
    item = replace(recordings[0], prompt_audio=recordings[0].audio[:320], mel=recordings[0].mel[1:])
    assert len(reward.heard_mel(item)) == len(recordings[0].mel)


def test_the_loss_does_not_apply_without_words_or_to_a_log_mel_that_is_not_finite(reward, recordings):
    good = recordings[0]
    mel = good.mel.clone().requires_grad_()
    inputs = [with_mel(good, mel), with_words(good, []), with_mel(good, torch.full_like(good.mel, nan))]
    losses = provider_loss(reward, "digits_ctc", inputs)
    assert losses.isnan().tolist() == [False, True, True]
    (gradient,) = torch.autograd.grad(losses.nansum(), mel)
    assert gradient.isfinite().all() and gradient.any()
    assert reward.loss(inputs[1:]).isnan().all()


def test_a_clip_too_short_for_its_text_has_the_largest_loss_without_a_gradient(reward, recordings):
    mel = recordings[0].mel[:4].clone().requires_grad_()
    item = with_words(with_mel(recordings[0], mel), ["seven"] * 5)
    loss = reward.loss([item])
    assert loss.item() == 6.0
    (gradient,) = torch.autograd.grad(loss.sum(), mel)
    assert not gradient.any()


def test_log_mels_far_out_give_finite_losses_and_gradients(reward, recordings):
    mel = (recordings[0].mel * 20).requires_grad_()
    loss = reward.loss([with_mel(recordings[0], mel)])
    (gradient,) = torch.autograd.grad(loss.sum(), mel)
    assert loss.isfinite().all() and gradient.isfinite().all()


def test_log_mels_of_other_settings_are_refused(reward, recordings):
    item = replace(recordings[0], mel_spec=replace(MEL_SPEC, hop_length=256))
    with pytest.raises(ValueError, match=r"hop_length=320.*hop_length=256.*take funasr_wer"):
        reward.loss([item])


def test_the_weights_are_frozen(reward, recordings):
    mel = recordings[0].mel.clone().requires_grad_()
    reward.loss([with_mel(recordings[0], mel)]).sum().backward()
    for network in reward.recognizers:
        assert not network.training
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())


# --- scores by word ---


def test_the_dense_score_drops_for_exactly_the_word_that_is_wrong(dense, recordings):
    for item in recordings:
        words = item.text.split()
        right = dense.score([item])["words"][0]
        other = next(word for word in WORDS if word not in words)
        for position in range(len(words)):
            changed = [*words[:position], other, *words[position + 1 :]]
            drop = right[: len(words)] - dense.score([with_words(item, changed)])["words"][0]
            assert drop[position] > 3 and drop.abs().topk(2).values[1] < 0.1, (words, changed, drop)


def test_the_word_scores_add_up_to_a_lower_bound_of_the_likelihood(recordings):
    dense = DigitsCtc(CKPTS[:1], component="fit", cap=1e6)  # so that nothing is limited
    (network,) = dense.recognizers
    for item in recordings:
        words = item.text.split()
        with torch.no_grad():
            log_probs, _ = network(item.mel[None], torch.tensor([len(item.mel)]))
        likelihood = -ctc_nll(log_probs, torch.tensor([len(item.mel)]), [word_labels(words)]).item()
        total = dense.score([item])["words"].nansum().item()
        assert likelihood - 1 < total <= likelihood + 1e-2  # float32 behind a tanh of 1e6


def test_scores_are_valid_by_the_registry_for_both_components(reward, dense, recordings):
    inputs = [*recordings[:3], with_words(recordings[0], [])]
    for provider in (reward, dense):
        scores = provider_scores(provider, "digits_ctc", inputs)
        assert {"acc", "wer", "ins", "del", "sub", "unusable", "heard", "fit", "words"} <= scores.keys()
        words, fit = scores["words"], scores["fit"]
        assert isinstance(words, Tensor) and isinstance(fit, Tensor)
        assert words.shape == (4, max(len(item.text.split()) for item in inputs)) and words[3].isnan().all()
        assert fit.isnan().tolist() == [False] * 3 + [True]


# --- settings ---


@pytest.mark.parametrize(
    "config, message",
    [
        ({"ckpts": "a.safetensors"}, "config.ckpts must be a list of one or more files, got 'a.safetensors'"),
        ({"ckpts": []}, r"config.ckpts must be a list of one or more files, got \[\]"),
        ({"component": "wer"}, "config.component='wer' is none of acc, fit"),
        ({"cap": 0.0}, "config.cap must be above 0 nats and finite, got 0.0"),
        ({"cap": nan}, "config.cap must be above 0 nats and finite, got nan"),
        ({"cap": inf}, "config.cap must be above 0 nats and finite, got inf"),
    ],
)
def test_a_wrong_setting_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        DigitsCtc(**config)
