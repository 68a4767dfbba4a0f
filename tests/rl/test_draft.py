from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.tiny import MINI_MEL
from torch import Tensor

from f5_tts.config.schema import GateConfig, RLConfig
from f5_tts.model.cfm import CFM
from f5_tts.rl.augment import augment
from f5_tts.rl.draft import draft_loss, draw_last_steps, velocity_anchor
from f5_tts.rl.grpo import PolicyLoss, collect_experience
from f5_tts.rl.policy_gradient import Models
from f5_tts.rl.rollout import rollout_grid
from f5_tts.rl.scoring import RewardScorer
from f5_tts.types import ExperienceBatch, RewardInput, Rollout, SpeechBatch, padding_mask

DRAFT = ("algorithm=draft", "steps=4", "mini_repeat_count=2", "kl_weight=0.0", "draft.last_steps=4")


class Distance:
    """Reward of log-mels near 1; its loss is the mean of ((mel - 1)² + mel³ / 10)."""

    component, takes = "score", "mel"

    def score(self, inputs: Sequence[RewardInput]) -> Tensor:
        return torch.zeros(len(inputs))

    def loss(self, inputs: Sequence[RewardInput]) -> Tensor:
        mels = [item.mel for item in inputs if item.mel is not None]
        return torch.stack([loss_of(mel).mean() for mel in mels])


class Deaf(Distance):
    """Reward that does not apply to texts of one word."""

    def loss(self, inputs: Sequence[RewardInput]) -> Tensor:
        losses = super().loss(inputs)
        return torch.stack(
            [loss if " " in item.text else torch.tensor(torch.nan) for loss, item in zip(losses, inputs, strict=True)]
        )


class Loudness:
    """Reward without a gradient."""

    component = "level"

    def score(self, inputs: Sequence[RewardInput]) -> Tensor:
        return torch.stack([item.audio.mean() for item in inputs])


class Waveform(Distance):
    takes = "wave"


def loss_of(mel: Tensor) -> Tensor:
    return (mel - 1).square() + mel**3 / 10


def no_vocoder(mel: Tensor, lens: Tensor) -> list[Tensor]:
    return [row[:num].mean(dim=1) for row, num in zip(mel, lens.tolist(), strict=True)]


def scorer(rl: RLConfig, **providers: object) -> RewardScorer:
    return RewardScorer(no_vocoder, providers, rl, MINI_MEL)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def distance(rewarded) -> RLConfig:
    """Return settings of draft with one reward, of weight 1."""
    return rewarded(["distance"], *DRAFT)


def gradients(model: CFM) -> Tensor:
    result = torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in model.parameters()])
    model.zero_grad(set_to_none=True)
    return result


def experience_of(policy: CFM, batch: SpeechBatch, rl: RLConfig, **providers: object) -> list[ExperienceBatch]:
    torch.manual_seed(3)
    return next(collect_experience(policy, [[batch]], scorer(rl, **providers), None, rl))


def learn(policy: CFM, experience: list[ExperienceBatch], rl: RLConfig, reference: CFM | None = None) -> Tensor:
    torch.manual_seed(4)
    for output in PolicyLoss(rl, reference)(policy, experience):
        output.loss.backward()
    return gradients(policy)


def mean_loss(policy: CFM, rollout: Rollout, rl: RLConfig, perturbed: CFM) -> Tensor:
    """Compute the mean loss of samples whose recorded steps are made by `perturbed`, written out."""
    x, mask = rollout.states[0], padding_mask(rollout.batch.lens, rollout.states.shape[2])
    for time, next_time in zip(rollout.times, rollout.next_times, strict=True):
        inputs = (x, rollout.cond, rollout.batch.text, time, mask)
        x = x + (next_time - time) * perturbed(*inputs, cfg_strength=rl.cfg_strength).mean
    return torch.stack([loss_of(mel[target]).mean() for mel, target in zip(x, rollout.target_mask, strict=True)]).mean()


CASES = [("draft", 1, 0.0), ("draft", 2, 0.0), ("draft", 4, 0.0), ("draft", 2, 1.5), ("refl", 1, 0.0)]


@pytest.mark.parametrize(("mode", "last_steps", "guidance"), CASES)
def test_the_gradient_agrees_with_finite_differences_through_the_last_steps(
    policy, batch, distance, double_precision, mode: str, last_steps: int, guidance: float
):
    """Compare in double precision, along a random direction of all weights."""
    distance.draft.mode, distance.draft.last_steps, distance.cfg_strength = mode, last_steps, guidance
    policy, batch = policy.double(), double(batch)
    torch.manual_seed(3)
    (rollout,) = draw_last_steps(policy, batch, distance)
    assert rollout.mel.dtype == torch.float64 and len(rollout.states) == (1 if mode == "refl" else last_steps)
    mel = rollout.mel.clone().requires_grad_()
    spans = [row[target] for row, target in zip(mel, rollout.target_mask, strict=True)]
    (gradient,) = torch.autograd.grad(torch.stack([loss_of(span).mean() for span in spans]).sum(), mel)
    drawn = ExperienceBatch(
        rollout=rollout,
        advantages=torch.zeros(4),
        loss_weight=1.0,
        metrics={"draft/loss": 0.0},
        mel_gradient=gradient,
    )
    draft_loss(Models(policy), drawn, 0, distance).loss.backward()
    torch.manual_seed(5)
    direction = [torch.randn_like(parameter) for parameter in policy.parameters()]
    ours = sum((p.grad * d).sum() for p, d in zip(policy.parameters(), direction, strict=True) if p.grad is not None)
    values = []
    for side in (1, -1):
        moved = copy.deepcopy(policy)
        with torch.no_grad():
            for parameter, change in zip(moved.parameters(), direction, strict=True):
                parameter += side * 1e-6 * change
            values.append(mean_loss(policy, rollout, distance, moved))
    torch.testing.assert_close(ours, (values[0] - values[1]) / 2e-6, rtol=1e-3, atol=0)


@pytest.fixture
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def double(batch: SpeechBatch) -> SpeechBatch:
    return replace(batch, mel=batch.mel.double())


def test_the_update_is_that_of_the_solver_differentiated_as_a_whole(policy, batch, distance):
    experience = experience_of(policy, batch, distance, distance=Distance())
    (drawn,) = experience
    mean_loss(policy, drawn.rollout, distance, policy).backward()
    expected = gradients(policy)
    outputs = list(PolicyLoss(distance)(policy, experience))
    outputs[0].loss.backward()
    torch.testing.assert_close(gradients(policy), expected, rtol=1e-5, atol=1e-6)
    assert outputs[0].loss.item() == pytest.approx(mean_loss(policy, drawn.rollout, distance, policy).item(), rel=1e-5)


def test_the_samples_are_those_of_the_solver_with_a_noise_of_their_own(policy, batch, distance):
    torch.manual_seed(3)
    (rollout,) = draw_last_steps(policy, batch, distance)
    torch.manual_seed(3)
    repeated = batch.repeat(2)
    x, mask = torch.randn_like(repeated.mel), padding_mask(repeated.lens, 12)
    with torch.no_grad():
        for time, next_time in pairwise(rollout_grid(distance)):
            x = x + (next_time - time) * policy(x, rollout.cond, repeated.text, time, mask).mean
    torch.testing.assert_close(rollout.mel[rollout.target_mask], x[rollout.target_mask])
    torch.testing.assert_close(rollout.mel[0, :3], batch.mel[0, :3])  # the prompt is the recording's
    assert rollout.states.shape == (4, 4, 12, 6) and not rollout.states.requires_grad


def test_halves_of_a_batch_have_the_gradient_of_the_whole(policy, batch, distance):
    (whole,) = experience_of(policy, batch, distance, distance=Distance())
    expected = learn(policy, [whole], distance)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(learn(policy, whole.split(), distance), expected, rtol=1e-4, atol=1e-6)


def test_the_anchor_is_zero_at_the_start_and_pulls_back_afterwards(policy, batch, rewarded):
    rl = rewarded(["distance"], *DRAFT, "kl_weight=0.5")
    experience = experience_of(policy, batch, rl, distance=Distance())
    reference = copy.deepcopy(policy)
    torch.manual_seed(0)
    at_start = velocity_anchor(Models(policy, reference), experience[0], 0, rl)
    assert at_start.metrics == {"loss/kl": 0.0}
    with torch.no_grad():
        policy.transformer.proj_out.bias += 0.2
    moved = velocity_anchor(Models(policy, reference), experience[0], 0, rl)
    assert moved.loss.item() == pytest.approx(0.5 * 0.2**2, rel=1e-4)
    moved.loss.backward()
    assert policy.transformer.proj_out.bias.grad.min() > 0


def test_an_anchor_of_every_third_update_has_three_times_the_weight_there_and_is_left_out_elsewhere(
    policy, batch, rewarded
):
    """Move the policy by 0.2 in each mel entry, so that the anchor is 0.5 (0.2)², at whatever times it is measured."""
    rl = rewarded(["distance"], *DRAFT, "kl_weight=0.5")
    (drawn,) = experience_of(policy, batch, rl, distance=Distance())
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        policy.transformer.proj_out.bias += 0.2
    alone = learn(policy, [drawn], replace(rl, kl_weight=0.0), reference)
    pull = learn(policy, [drawn], rl, reference) - alone
    anchors, thirds = [], replace(rl, anchor_every=3)
    for update in (0, 1, 2, 3):
        parts = [replace(drawn, update=update)]
        torch.manual_seed(4)
        first, *anchor = PolicyLoss(thirds, reference)(policy, parts)
        assert "loss/kl" not in first.metrics
        anchors.append([(output.loss.item(), float(output.metrics["kl"])) for output in anchor])
        gradient = learn(policy, parts, thirds, reference)
        torch.testing.assert_close(gradient - alone, (0 if anchor == [] else 3) * pull, rtol=1e-3, atol=1e-5)
    due = [pytest.approx((3 * 0.5 * 0.2**2, 0.2**2), rel=1e-4)]
    assert anchors == [due, [], [], due]
    assert pull.abs().max() > 0.01


def test_losses_are_added_by_weight_and_their_gradient_is_that_of_the_sum(policy, batch, rewarded):
    rl = rewarded(["one", "two"], *DRAFT)  # weights 1 and 2
    (drawn,) = experience_of(policy, batch, rl, one=Distance(), two=Deaf())
    assert drawn.rewards is not None
    one, two = (drawn.rewards.components[name] for name in ("one.loss", "two.loss"))
    assert two.isnan().tolist() == [False, False, True, True]  # "six" is one word
    torch.testing.assert_close(drawn.rewards.total, -(one + 2 * two.nan_to_num(0.0)))
    assert drawn.metrics["reward/not_applicable"] == 0.25
    assert drawn.metrics["draft/loss"] == pytest.approx(-drawn.metrics["reward/mean"])
    mel = drawn.rollout.mel
    slope = 2 * (mel - 1) + 0.3 * mel.square()
    size = 6 * drawn.rollout.target_mask.sum(dim=1)
    weight = torch.tensor([3.0, 3.0, 1.0, 1.0]) / size
    expected = (weight[:, None, None] * slope).masked_fill(~drawn.rollout.target_mask[..., None], 0.0)
    torch.testing.assert_close(drawn.mel_gradient, expected)


def test_a_gate_closes_a_loss_and_its_gradient(policy, batch, rewarded):
    rl = rewarded(["distance", "level"], *DRAFT)
    rl.rewards.providers[1].weight = 0.0  # reported only
    rl.rewards.gates = [GateConfig(reward="distance.loss", by="level.level", within=[1e6, 2e6])]
    (drawn,) = experience_of(policy, batch, rl, distance=Distance(), level=Loudness())
    assert drawn.rewards is not None and drawn.mel_gradient is not None
    assert drawn.rewards.components["distance.loss"].tolist() == [0.0] * 4
    assert drawn.mel_gradient.abs().sum() == 0
    assert drawn.metrics["reward/level.level"] == pytest.approx(drawn.rewards.diagnostics["level.level"].mean().item())


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        ({"level": Loudness()}, "rl.algorithm=draft learns from the gradients of rewards, and level has none"),
        ({"wave": Waveform()}, "griffin_lim has no gradient: set model.vocoder.name=vocos"),
    ],
)
def test_a_reward_without_a_gradient_is_refused(rewarded, providers: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        scorer(rewarded(list(providers), *DRAFT), **providers)


def test_without_any_gradient_a_weight_beside_another_algorithm_is_refused(rewarded):
    rl = rewarded(["level"], "algorithm=nft", "shared_noise=false", "draft.weight=0.5")
    with pytest.raises(ValueError, match=r"none of the rewards \(level\) has a gradient and a weight"):
        scorer(rl, level=Loudness())


class Broken(Distance):
    def __init__(self, fault: str) -> None:
        self.fault = fault

    def loss(self, inputs: Sequence[RewardInput]) -> Tensor:
        losses = super().loss(inputs)
        return {"shape": losses[:1], "gradient": losses.detach(), "infinite": losses * torch.inf}[self.fault]


@pytest.mark.parametrize(
    ("fault", "message"),
    [("shape", r"shape \(1,\) for 4 clips"), ("gradient", "its loss has no gradient"), ("infinite", "is infinite")],
)
def test_a_loss_that_is_not_one_number_with_a_gradient_for_each_clip_is_refused(
    policy, batch, distance, fault: str, message: str
):
    with pytest.raises(ValueError, match=f"reward provider distance: .*{message}"):
        experience_of(policy, batch, distance, distance=Broken(fault))


def test_beside_another_algorithm_the_weighted_gradient_of_one_sample_a_prompt_is_added(policy, batch, rewarded):
    changes = ("algorithm=nft", "shared_noise=false", "mini_repeat_count=2", "steps=4", "draft.last_steps=2")
    rl = rewarded(["distance"], *changes, "kl_weight=0.0", "draft.weight=0.25", "nft.num_times=1")

    def advantages(components: dict[str, Tensor], group_ids: Tensor, target: Tensor) -> Tensor:
        return torch.tensor([1.0, -1.0, 2.0, -2.0])

    torch.manual_seed(3)
    both = next(collect_experience(policy, [[batch]], scorer(rl, distance=Distance()), advantages, rl))
    compared, drafted = both
    assert compared.mel_gradient is None and len(drafted.rollout.mel) == 2
    assert "reward/mean" in compared.metrics and "reward/mean" not in drafted.metrics
    assert {"draft/loss", "reward/distance.loss"} <= drafted.metrics.keys()
    total = learn(policy, both, rl)
    mean_loss(policy, drafted.rollout, rl, policy).backward()
    expected = learn_nft(policy, compared, rl) + 0.25 * draft_gradient(policy, drafted, rl)
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-6)


def learn_nft(policy: CFM, compared: ExperienceBatch, rl: RLConfig) -> Tensor:
    gradients(policy)
    return learn(policy, [compared], rl)


def draft_gradient(policy: CFM, drafted: ExperienceBatch, rl: RLConfig) -> Tensor:
    mean_loss(policy, drafted.rollout, rl, policy).backward()
    return gradients(policy)


# --- augmentation ---


def spans() -> Iterator[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    mel = torch.randn(64, 20, 30)
    target = torch.arange(20).expand(64, 20) >= 5
    yield mel, target


def test_augmentation_of_strength_zero_changes_nothing_and_draws_nothing():
    ((mel, target),) = spans()
    before = torch.get_rng_state()
    assert augment(mel, target, 0.0) is mel
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_changes_samples_within_its_limits_and_masks_some_with_their_mean():
    ((mel, target),) = spans()
    mel.requires_grad_()
    changed = augment(mel, target, 1.0)
    assert changed.shape == mel.shape
    (gradient,) = torch.autograd.grad(changed.sum(), mel)
    masked = gradient == 0
    assert gradient.unique().tolist() == [0.0, 1.0]
    bands, frames = masked.all(dim=1).sum(dim=1), masked.all(dim=2).sum(dim=1)
    assert 1 <= bands.max() <= 12 and 1 <= frames.max() <= 4
    assert not masked.all(dim=2)[:, :5].any()  # masked frames lie in the generated span
    assert 0.15 < (bands > 0).float().mean() < 0.45 and 0.15 < (frames > 0).float().mean() < 0.45
    means = torch.stack([row[span].mean() for row, span in zip(mel, target, strict=True)])
    torch.testing.assert_close(changed[masked], means[:, None, None].expand_as(mel)[masked])
    offset = (changed - mel).masked_fill(masked, torch.nan).nanmean(dim=(1, 2))
    assert offset.abs().max() < 0.8 + 0.7 + 0.5 and offset.std() > 0.2


class Seen(Distance):
    """Reward that keeps the log-mels that its loss gets."""

    def __init__(self, *, takes_unchanged: bool):
        self.takes_unchanged, self.mels = takes_unchanged, []

    def loss(self, inputs: Sequence[RewardInput]) -> Tensor:
        self.mels += [item.mel for item in inputs if item.mel is not None]
        return super().loss(inputs)


def test_a_reward_may_take_samples_without_augmentation(policy, batch, rewarded):
    rl = rewarded(["plain", "changed"], *DRAFT, "draft.augmentation=1")
    rewards = {"plain": Seen(takes_unchanged=True), "changed": Seen(takes_unchanged=False)}
    (rollout, *_) = draw_last_steps(policy, batch, rl)
    scorer(rl, **rewards).differentiate(rollout)
    spans = [mel[span] for mel, span in zip(rollout.mel, rollout.target_mask, strict=True)]
    for (name, reward), equal in zip(rewards.items(), (True, False), strict=True):
        same = [torch.equal(seen, span) for seen, span in zip(reward.mels, spans, strict=True)]
        assert set(same) == {equal}, name
