from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from f5_tts.config.schema import RLConfig
from f5_tts.model.cfm import CFM
from f5_tts.model.flow import interpolate
from f5_tts.rl.grpo import PolicyLoss
from f5_tts.rl.nft import EmaPolicy, nft_loss, sample_times_and_noise
from f5_tts.rl.policy_gradient import Models
from f5_tts.rl.rollout import draw_finished
from f5_tts.types import ExperienceBatch, Rollout, SpeechBatch

NFT = ("algorithm=nft", "shared_noise=false", "steps=3", "mini_repeat_count=3", "nft.num_times=2")
ADVANTAGES = torch.tensor([1.0, -0.5, -0.5, 2.0, 0.0, -1.5])


@pytest.fixture
def settings(rl) -> RLConfig:
    return rl(*NFT, "kl_weight=0.0")


@pytest.fixture
def rollout(policy, batch, settings) -> Rollout:
    """Draw three samples for each of two prompts."""
    torch.manual_seed(0)
    (drawn,) = draw_finished(policy, batch, settings)
    return drawn


def experience(rollout: Rollout, advantages: Tensor = ADVANTAGES) -> ExperienceBatch:
    return ExperienceBatch(rollout=rollout, advantages=advantages, loss_weight=1.0, metrics={})


def gradients(policy: CFM) -> Tensor:
    result = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    policy.zero_grad(set_to_none=True)
    return result


def learn(
    policy: CFM, batch: ExperienceBatch, rl: RLConfig, reference: CFM | None = None, old: CFM | None = None
) -> Tensor:
    torch.manual_seed(3)
    nft_loss(Models(policy, reference, old), batch, 0, rl).loss.backward()
    return gradients(policy)


def speech_error(rollout: Rollout, velocity: Tensor, state: Tensor, time: Tensor, power: int) -> Tensor:
    """Compute mean_D |x̂1 - x1|^power over the target entries, with x̂1 = x + (1-t) v."""
    speech = state + (1 - time[:, None, None]) * velocity
    error = (speech - rollout.mel).abs() ** power
    return torch.stack([row[target].mean() for row, target in zip(error, rollout.target_mask, strict=True)])


@pytest.mark.parametrize(("b", "most"), [(1.0, 5.0), (0.1, 2.0)])
def test_the_gradient_is_that_of_the_published_loss_whatever_its_beta_and_largest_advantage(
    policy, rollout, settings, b: float, most: float
):
    """Compare with A_max/b (r ‖x̂1(v+) - x1‖² + (1-r) ‖x̂1(v-) - x1‖²) / w, written out.

    v_old is the current policy.
    """
    settings.nft.beta, settings.nft.adv_max = 0.7, 3.0
    ours = learn(policy, experience(rollout), settings)
    torch.testing.assert_close(
        ours, published_gradient(policy, policy, rollout, settings, b, most), rtol=1e-4, atol=1e-6
    )


def test_away_from_the_policy_that_drew_the_gradient_is_the_published_one(policy, rollout, settings):
    """Compare off policy, where beta and A_max matter. r is clipped, since the largest advantage is above A_max."""
    drew = copy.deepcopy(policy)
    with torch.no_grad():
        drew.transformer.proj_out.bias += 0.3 * torch.randn(6)
    settings.nft.beta, settings.nft.adv_max = 0.7, 1.2
    ours = learn(policy, experience(rollout), settings, old=drew)
    expected = published_gradient(policy, drew, rollout, settings, 0.7, 1.2)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    still = learn(policy, experience(rollout, torch.zeros(6)), settings, old=drew)
    assert still.abs().sum() > 0  # samples of advantage 0 pull the policy to the one that drew them


def published_gradient(policy: CFM, drew: CFM, rollout: Rollout, rl: RLConfig, b: float, most: float) -> Tensor:
    torch.manual_seed(3)
    time, noise = sample_times_and_noise(rollout, 0, rl)
    state = interpolate(noise, rollout.mel, time)
    lens = rollout.batch.lens
    mask = torch.arange(state.shape[1]) < lens[:, None]
    velocity, old = (model(state, rollout.cond, rollout.batch.text, time, mask).mean for model in (policy, drew))
    old = old.detach()
    r = (1 + (ADVANTAGES / most).clamp(-1, 1)) / 2
    sides = []
    for share, velocity_then in ((r, old + b * (velocity - old)), (1 - r, old - b * (velocity - old))):
        weight = speech_error(rollout, velocity_then.detach(), state, time, 1)
        sides.append(share * speech_error(rollout, velocity_then, state, time, 2) / weight)
    (most / b * sum(sides, torch.zeros(6))).mean().backward()
    return gradients(policy)


def test_the_old_policy_is_a_running_average_whose_memory_grows(policy):
    """Use weights 1, 2, 3 before rollouts 0, 1, 2 with η = 0, 0.001, 0.002. Much later, η stops at 0.5."""
    bias = policy.transformer.proj_out.bias
    old = EmaPolicy(policy, max_decay=0.5)
    seen = []
    for value in (1.0, 2.0, 3.0):
        with torch.no_grad():
            bias.fill_(value)
        old.ema_update()
        seen.append(old.snapshot.tensors["transformer.proj_out.bias"][0].item())
    second = 0.001 * 1 + 0.999 * 2
    assert seen == pytest.approx([1.0, second, 0.002 * second + 0.998 * 3])
    copy_of_it = EmaPolicy(policy, max_decay=0.5)
    old.commit()
    copy_of_it.load_state_dict({**old.state_dict(), "rollouts": 9000})
    with torch.no_grad():
        bias.fill_(0.0)
    copy_of_it.ema_update()
    assert copy_of_it.snapshot.tensors["transformer.proj_out.bias"][0].item() == pytest.approx(seen[2] / 2)


def test_the_old_policy_of_a_rollout_whose_update_failed_is_not_averaged_twice(policy):
    bias = policy.transformer.proj_out.bias
    old, resumed = EmaPolicy(policy, max_decay=0.5), EmaPolicy(policy, max_decay=0.5)
    for value in (1.0, 2.0):
        with torch.no_grad():
            bias.fill_(value)
        old.ema_update()
    before = old.snapshot.tensors["transformer.proj_out.bias"].clone()
    resumed.load_state_dict(old.state_dict())
    resumed.ema_update()
    assert torch.equal(resumed.snapshot.tensors["transformer.proj_out.bias"], before) and resumed.rollouts == 2
    resumed.commit()
    resumed.ema_update()
    assert not torch.equal(resumed.snapshot.tensors["transformer.proj_out.bias"], before) and resumed.rollouts == 3


def test_the_state_of_an_older_checkpoint_is_that_of_a_made_update(policy):
    old = EmaPolicy(policy, max_decay=0.5)
    old.load_state_dict({name: value for name, value in old.state_dict().items() if name not in EmaPolicy.added_keys})
    old.ema_update()
    assert old.rollouts == 1


def test_a_step_makes_what_scored_well_likelier_and_what_scored_badly_less(policy, rollout, settings):
    """Check the squared error of x̂1. It must fall for the sample above its group and grow for the one below."""
    batch = experience(rollout, torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0, 0.0]))

    def errors() -> Tensor:
        torch.manual_seed(3)
        time, noise = sample_times_and_noise(rollout, 0, settings)
        state = interpolate(noise, rollout.mel, time)
        mask = torch.arange(state.shape[1]) < rollout.batch.lens[:, None]
        with torch.no_grad():
            velocity = policy(state, rollout.cond, rollout.batch.text, time, mask).mean
        return speech_error(rollout, velocity, state, time, 2)

    before = errors()
    torch.manual_seed(3)
    nft_loss(Models(policy), batch, 0, settings).loss.backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter -= 0 if parameter.grad is None else 1e-4 * parameter.grad
    change = errors() - before
    assert change[0] - change[1] < 0


def test_frames_have_their_own_say_and_what_is_not_generated_has_none(policy, rollout, settings):
    by_sample = learn(policy, experience(rollout), settings)
    frames = torch.where(rollout.target_mask, ADVANTAGES[:, None], 99.0)
    torch.testing.assert_close(learn(policy, experience(rollout, frames), settings), by_sample)
    half = frames.clone()
    half[:, :6] = 0.0
    assert not torch.allclose(learn(policy, experience(rollout, half), settings), by_sample)


def test_equal_rewards_teach_nothing(policy, rollout, settings):
    assert learn(policy, experience(rollout, torch.zeros(6)), settings).eq(0).all()


def test_at_the_reference_nothing_pulls_back_and_away_from_it_the_squared_distance_does(policy, rollout, rl):
    config = rl(*NFT, "kl_weight=10.0")
    still = experience(rollout, torch.zeros(6))
    assert learn(policy, still, config, policy).eq(0).all()
    assert nft_loss(Models(policy, policy), still, 0, config).metrics["loss/kl"] == 0
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        reference.transformer.proj_out.bias += 0.5  # its velocity differs by 0.5 everywhere
    output = nft_loss(Models(policy, reference), still, 0, config)
    assert output.metrics["loss/kl"] == pytest.approx(0.25, rel=1e-4)
    assert output.metrics["loss"] + output.metrics["loss/pro_adv"] == pytest.approx(2.5, rel=1e-4)


@pytest.mark.parametrize(("first", "middle", "last"), [(0.0, 0.5, 1.0), (0.2, 0.3, 0.4)])
def test_a_group_shares_time_and_noise_and_updates_cover_all_times(rollout, rl, first, middle, last):
    uniform = rl(*NFT, "sway_sampling_coef=null", f"nft.t_range=[{first},{last}]")
    for part, (low, high) in enumerate([(first, middle), (middle, last)]):
        time, noise = sample_times_and_noise(rollout, part, uniform)
        assert time[:3].eq(time[0]).all() and noise[:3].eq(noise[0]).all()
        assert time[0] != time[3] and not noise[0].eq(noise[3]).any()
        assert low <= time.min() < (low + high) / 2 <= time.max() < high  # the two groups split the interval


def test_samples_start_apart_and_nothing_is_recorded_on_the_way(rollout):
    assert len(rollout.times) == 0 and rollout.states.shape == (0, *rollout.mel.shape)
    target = rollout.target_mask[0]
    assert not rollout.mel[0][target].eq(rollout.mel[1][target]).any()


def test_an_update_has_a_slice_for_each_fresh_time(policy, rollout, settings):
    whole = experience(rollout)
    torch.manual_seed(3)
    outputs = list(PolicyLoss(settings)(policy, [whole]))
    torch.manual_seed(3)
    expected = [nft_loss(Models(policy), whole, part, settings).loss.item() / 2 for part in range(2)]
    assert [output.loss.item() for output in outputs] == pytest.approx(expected)


def test_guidance_is_part_of_the_velocity(policy, rollout, rl):
    plain, guided = rl(*NFT, "kl_weight=0.0"), rl(*NFT, "kl_weight=0.0", "cfg_strength=2.0")
    batch = experience(rollout)
    assert not torch.allclose(learn(policy, batch, plain), learn(policy, batch, guided))


def test_one_prompt_without_padding_is_enough(policy, settings, batch: SpeechBatch):
    single = replace(
        batch,
        mel=batch.mel[:1],
        lens=batch.lens[:1],
        prompt_lens=batch.prompt_lens[:1],
        text=batch.text[:1],
        target_texts=batch.target_texts[:1],
        group_ids=batch.group_ids[:1],
        audio=batch.audio[:1],
    )
    torch.manual_seed(0)
    (drawn,) = draw_finished(policy, single, settings)
    assert learn(policy, experience(drawn, torch.tensor([1.0, 0.0, -1.0])), settings).abs().sum() > 0


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_the_distance_to_the_policy_that_drew_is_that_of_the_velocities_whatever_beta_is(policy, rollout, rl, beta):
    """Expect 0.09 from velocities that differ by 0.3 in every entry."""
    old = copy.deepcopy(policy)
    with torch.no_grad():
        policy.transformer.proj_out.bias.add_(0.3)
    config = rl(*NFT, "kl_weight=0.0", f"nft.beta={beta}")
    seen = nft_loss(Models(policy, None, old), experience(rollout), 0, config).metrics
    assert seen["kl/old"] == pytest.approx(0.09, rel=1e-4) and seen["policy/deviation"] == pytest.approx(0.3, rel=1e-4)
    alone = nft_loss(Models(policy), experience(rollout), 0, config).metrics
    assert alone["kl/old"] == alone["policy/deviation"] == 0
