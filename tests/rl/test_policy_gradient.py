from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, log, pi

import pytest
import torch
from torch import Tensor, nn

from f5_tts.config.schema import RLConfig
from f5_tts.model.backbones.dit import DiT
from f5_tts.model.cfm import CFM
from f5_tts.model.heads import Velocity
from f5_tts.rl.draft import velocity_anchor
from f5_tts.rl.gaussian import Gaussian
from f5_tts.rl.nft import nft_loss
from f5_tts.rl.policy_gradient import Models, anchor_loss, grpo_loss, policy_at
from f5_tts.types import ExperienceBatch, LossOutput, Rollout

NUM = 40_000  # draws of a Monte Carlo gradient
STEP_BY_HAND = 0.35, 0.5 * 0.75**0.5  # ∂m/∂v and s of a stochastic step from 0.2 to 0.5 with a = 1, where ρ = 1/2


class ThreeNumbers(DiT):
    """Backbone of three parameters: its velocity with text, its velocity without text, and ln σ."""

    def __init__(self, given: float, blank: float, ln_sigma: float) -> None:
        nn.Module.__init__(self)
        self.given, self.blank = nn.Parameter(torch.tensor(given)), nn.Parameter(torch.tensor(blank))
        self.ln_sigma = nn.Parameter(torch.tensor(ln_sigma))
        self.proj_out_ln_sig = None

    def forward(self, x, cond, text, time, mask, drop_audio, drop_text, text_embedding=None) -> Velocity:
        mean = torch.where(drop_text, self.blank, self.given)[:, None, None]
        return Velocity(mean.expand_as(x), self.ln_sigma.expand_as(x))


def three_numbers(given: float = 0.4, blank: float = -0.3, ln_sigma: float = log(0.7)) -> CFM:
    return CFM(ThreeNumbers(given, blank, ln_sigma))


def gradient(model: CFM, name: str) -> float | None:
    value = model.transformer.get_parameter(name).grad
    return None if value is None else value.item()


@pytest.fixture
def drawn(rollout_of) -> Callable[[CFM, RLConfig, int], Rollout]:
    """Return a maker of rollouts of one step, one frame and one bin at state 0.5.

    It holds the actions of the model and their distribution.
    """

    def draw(model: CFM, rl: RLConfig, num: int = NUM) -> Rollout:
        torch.manual_seed(0)
        states = torch.full((num, 1, 1), 0.5)
        empty = rollout_of(states, states, states, 1.0)
        with torch.no_grad():
            distribution = policy_at(model, empty, 0, rl)
            actions = distribution.sample()
        return drawn_from(empty, distribution, actions)

    return draw


def drawn_from(rollout: Rollout, policy: Gaussian, actions: Tensor) -> Rollout:
    std = policy.std if policy.std.ndim else policy.std.view(1, 1, 1)
    return replace(rollout, actions=actions[None], means=policy.mean[None], stds=std[None])


def standardised(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean()) / rewards.std(correction=0)


def improve(
    model: CFM, rollout: Rollout, advantages: Tensor, rl: RLConfig, reference: CFM | None = None, step: int = 0
) -> LossOutput:
    """Compute the objective of one trained step and its gradients."""
    batch = ExperienceBatch(rollout=rollout, advantages=advantages, loss_weight=1.0, metrics={})
    output = grpo_loss(Models(model, reference), batch, step, rl)
    output.loss.backward()
    return output


# --- the gradient, with a reward that is the action: truth (1 + w) cov(a, R) / (s² sd R) = (1 + w) / s ---


@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gaussian_policy_climbs_a_linear_reward_by_its_true_gradient(rl, drawn, guidance: float, temperature: float):
    """Allow four standard errors; A (a - m) / s² has deviation √2 / s per draw."""
    config = rl("algorithm=gaussian_grpo", f"cfg_strength={guidance}", f"temperature={temperature}", "kl_weight=0")
    model, std = three_numbers(), 0.7 * temperature
    rollout = drawn(model, config)
    improve(model, rollout, standardised(rollout.actions.flatten()), config)
    error = 4 * 2**0.5 / (std * NUM**0.5)
    assert gradient(model, "given") == pytest.approx(-(1 + guidance) / std, abs=(1 + guidance) * error)
    if guidance:
        assert gradient(model, "blank") == pytest.approx(guidance / std, abs=guidance * error)


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_stochastic_solver_climbs_a_linear_reward_by_its_true_gradient(rl, drawn, guidance: float):
    """Expect (1 + w) ∂m/∂v / s. The action is x', whose mean moves with the velocity by ∂m/∂v."""
    config = rl("algorithm=flow_grpo", "sde.a=1.0", f"cfg_strength={guidance}", "kl_weight=0")
    model = three_numbers()
    rollout = drawn(model, config)
    improve(model, rollout, standardised(rollout.actions.flatten()), config)
    slope, std = STEP_BY_HAND
    truth, error = (1 + guidance) * slope / std, 4 * 2**0.5 * (1 + guidance) * slope / (std * NUM**0.5)
    assert gradient(model, "given") == pytest.approx(-truth, abs=error)


def test_sigma_is_left_alone_unless_it_is_trained(rl, drawn):
    model, config = three_numbers(), rl("algorithm=gaussian_grpo", "kl_weight=0.02", "train_sigma=false")
    rollout = drawn(model, config, 100)
    improve(model, rollout, standardised(rollout.actions.flatten()), config, three_numbers(ln_sigma=0.0))
    assert gradient(model, "ln_sigma") is None


def test_a_trained_sigma_shrinks_where_the_mean_is_best(rl, drawn):
    """Use R = -(a - m)², so A = -(ε² - 1) / √2.

    ∂ ln π / ∂ ln σ = ε² - 1 then gives -√2, with deviation √30 per draw.
    """
    model, config = three_numbers(), rl("algorithm=gaussian_grpo", "kl_weight=0", "train_sigma=true")
    rollout = drawn(model, config)
    rewards = -(rollout.actions.flatten() - 0.4).square()
    improve(model, rollout, standardised(rewards), config)
    assert gradient(model, "ln_sigma") == pytest.approx(2**0.5, abs=4 * (30 / NUM) ** 0.5)


def test_equal_rewards_give_exactly_no_policy_gradient(rl, drawn):
    model, config = three_numbers(), rl("algorithm=gaussian_grpo", "kl_weight=0")
    improve(model, drawn(model, config, 100), torch.zeros(100), config)
    assert gradient(model, "given") == 0


# --- the ratio ---


@pytest.mark.parametrize("algorithm", ["gaussian_grpo", "flow_grpo"])
def test_on_policy_the_ratio_is_one_and_the_gradient_is_not_zero(rl, drawn, algorithm: str):
    model, config = three_numbers(), rl(f"algorithm={algorithm}", "kl_weight=0")
    rollout = drawn(model, config, 100)
    output = improve(model, rollout, standardised(rollout.actions.flatten()), config)
    assert output.metrics["ratio/max_dev"] == 0
    assert output.loss.item() == pytest.approx(0, abs=1e-6)
    assert abs(gradient(model, "given") or 0) > 0.1


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [1.5, 0.5])
def test_off_policy_a_ratio_out_of_range_stops_only_what_would_take_it_further(rl, drawn, ratio: float, advantage):
    """Compute min(r A, clip(r) A) by hand, with the ratio clipped to [0.9, 1.2]."""
    config = rl("algorithm=gaussian_grpo", "kl_weight=0", "clip_low=0.1", "clip_high=0.2")
    model = three_numbers()
    rollout = with_ratios(drawn(model, config, 1), [[ratio]])
    output = improve(model, rollout, torch.tensor([advantage]), config)
    clipped = min(max(ratio, 0.9), 1.2)
    assert output.metrics["loss/pro_adv"] == pytest.approx(min(ratio * advantage, clipped * advantage))
    assert output.metrics["ratio/max_dev"] == pytest.approx(abs(ratio - 1))
    further = (ratio > 1) == (advantage > 0)
    assert (gradient(model, "given") == 0) == further


def with_ratios(rollout: Rollout, ratios: list[list[float]]) -> Rollout:
    """Build a rollout whose ratios under the current policy have the given values.

    Actions lie two deviations above the current mean m; the mean m' of the old policy follows from ln r = ((2s + m -
    m')² - (2s)²) / (2s²): m' = m + 2s - s √(4 + 2 ln r).
    """
    mean, std = rollout.means[0], rollout.stds[0]
    log_ratios = torch.tensor(ratios).log()[..., None].expand_as(mean)
    old = mean + 2 * std - std * (4 + 2 * log_ratios).sqrt()
    return replace(rollout, actions=(mean + 2 * std)[None], means=old[None])


# --- the reference ---


@pytest.mark.parametrize("algorithm", ["gaussian_grpo", "flow_grpo"])
def test_at_the_reference_kl_and_its_gradient_are_zero(rl, drawn, algorithm: str):
    model, config = three_numbers(), rl(f"algorithm={algorithm}", "kl_weight=100.0", "cfg_strength=2.0")
    output = improve(model, drawn(model, config, 100), torch.zeros(100), config, three_numbers())
    assert output.metrics["loss/kl"] == 0
    assert gradient(model, "given") == 0 and gradient(model, "blank") == 0


def test_kl_of_the_gaussian_policy_is_of_the_guided_and_widened_velocity(rl, drawn):
    """Use w = 2: the means 3·0.4 + 0.6 and 3·0.1 + 0.6 differ by 0.9. The deviations are s = 2·0.7 and s_r = 2·0.5."""
    model, reference = three_numbers(0.4), three_numbers(0.1, ln_sigma=log(0.5))
    config = rl("algorithm=gaussian_grpo", "kl_weight=0.02", "cfg_strength=2.0", "temperature=2.0", "train_sigma=true")
    output = improve(model, drawn(model, config, 10), torch.zeros(10), config, reference)
    kl = log(1 / 1.4) + (1.4**2 + 0.9**2) / 2 - 0.5
    assert output.metrics["loss/kl"] == pytest.approx(kl, rel=1e-5)
    assert output.metrics["loss"] == pytest.approx(0.02 * kl, rel=1e-5)
    assert gradient(model, "given") == pytest.approx(0.02 * 3 * 0.9, rel=1e-5)
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_where_sigma_is_frozen_the_kl_is_of_the_means_alone(rl, drawn):
    """Use means 0.3 apart and s = 0.7 of the policy that drew. The σ head of the reference must not matter."""
    config = rl("algorithm=gaussian_grpo", "kl_weight=1.0", "temperature=1.0", "train_sigma=false")
    model, reference = three_numbers(0.4), three_numbers(0.1, ln_sigma=log(0.5))
    output = improve(model, drawn(model, config, 10), torch.zeros(10), config, reference)
    assert output.metrics["loss/kl"] == pytest.approx(0.3**2 / (2 * 0.7**2), rel=1e-5)


def test_a_frozen_sigma_is_that_of_the_draw_though_its_head_has_moved(rl, drawn):
    config = rl("algorithm=gaussian_grpo", "kl_weight=0", "temperature=1.0", "train_sigma=false")
    rollout = drawn(three_numbers(ln_sigma=log(0.7)), config, 100)
    output = improve(three_numbers(ln_sigma=log(0.5)), rollout, torch.ones(100), config)
    assert output.metrics["ratio/max_dev"] == 0
    assert output.metrics["policy/sigma_mean"] == pytest.approx(0.7)


def test_kl_of_the_stochastic_solver_is_half_the_squared_leverage_times_velocities_apart(rl, drawn):
    """Use κ = |∂m/∂v| / s and velocities 0.3 apart."""
    config = rl("algorithm=flow_grpo", "sde.a=1.0", "kl_weight=1.0")
    model = three_numbers(0.4)
    output = improve(model, drawn(model, config, 10), torch.zeros(10), config, three_numbers(0.1))
    slope, std = STEP_BY_HAND
    assert output.metrics["loss/kl"] == pytest.approx((slope / std) ** 2 / 2 * 0.3**2, rel=1e-5)
    assert gradient(model, "given") == pytest.approx((slope / std) ** 2 * 0.3, rel=1e-4)


def test_without_a_reference_there_is_no_kl(rl, drawn):
    model, config = three_numbers(), rl("algorithm=gaussian_grpo", "kl_weight=0.02")
    assert improve(model, drawn(model, config, 10), torch.zeros(10), config).metrics["loss/kl"] == 0


# --- masks and frame advantages ---


def test_only_generated_frames_count_and_each_sample_as_much_as_another(rl, rollout_of):
    """Use one generated frame in sample 0 and three in sample 1. On policy, ∂/∂m is mean_b A mean_D (a - m) / s²."""
    config = rl("algorithm=gaussian_grpo", "kl_weight=0", "temperature=1.0")
    actions = torch.arange(8.0).view(2, 4, 1)
    target = torch.tensor([[False, False, True, False], [False, True, True, True]])
    rollout = replace(rollout_of(torch.zeros(2, 4, 1), actions, torch.full((2, 4, 1), 0.4), 0.7), target_mask=target)
    model, advantages = three_numbers(0.4, ln_sigma=log(0.7)), torch.tensor([1.0, -2.0])
    improve(model, rollout, advantages, config)
    expected = (1.0 * (2 - 0.4) - 2.0 * (6 - 0.4)) / 2 / 0.49
    assert gradient(model, "given") == pytest.approx(-expected, rel=1e-5)


def test_the_spread_of_the_policy_is_reported(rl, drawn):
    model, config = three_numbers(ln_sigma=-1.0), rl("algorithm=gaussian_grpo", "temperature=2.0")
    output = improve(model, drawn(model, config, 10), torch.zeros(10), config)
    assert output.metrics["policy/sigma_mean"] == pytest.approx(2 * exp(-1))
    assert output.metrics["policy/entropy"] == pytest.approx(log(2 * exp(-1)) + (1 + log(2 * pi)) / 2)


def test_frames_with_advantages_of_their_own_have_ratios_and_clips_of_their_own(rl, rollout_of):
    """Use ratios 1.5 and 0.5, advantages 1 and 3, and a clip at 1.2.

    The gain is (1.2 + 1.5) / 2; the third frame is padding.
    """
    config = rl("algorithm=gaussian_grpo", "kl_weight=0", "clip_low=0.1", "clip_high=0.2", "temperature=1.0")
    model, means = three_numbers(0.4, ln_sigma=log(0.7)), torch.full((1, 3, 1), 0.4)
    rollout = replace(rollout_of(means, means, means, 0.7), target_mask=torch.tensor([[True, True, False]]))
    rollout = with_ratios(rollout, [[1.5, 0.5, 9.0]])
    output = improve(model, rollout, torch.tensor([[1.0, 3.0, 100.0]]), config)
    assert output.metrics["loss/pro_adv"] == pytest.approx((1.2 + 1.5) / 2)


def test_on_policy_equal_advantages_of_frames_give_the_gradient_of_their_sample(rl, drawn):
    config = rl("algorithm=flow_grpo", "kl_weight=0")
    result = []
    for widen in (False, True):
        model = three_numbers()
        rollout = drawn(model, config, 100)
        advantages = standardised(rollout.actions.flatten())
        improve(model, rollout, advantages[:, None] if widen else advantages, config)
        result.append(gradient(model, "given"))
    assert result[0] == pytest.approx(result[1], rel=1e-5)


# --- guidance, guard, anchor ---


def test_the_unconditional_half_may_be_held(rl, drawn):
    config = rl("algorithm=gaussian_grpo", "cfg_strength=2.0", "cfg_grad_uncond=false", "kl_weight=0")
    model = three_numbers()
    rollout = drawn(model, config, 100)
    improve(model, rollout, standardised(rollout.actions.flatten()), config)
    assert abs(gradient(model, "given") or 0) > 0.1
    assert gradient(model, "blank") is None or gradient(model, "blank") == 0


def test_the_guard_is_one_on_policy_and_centred_off_it(rl, drawn):
    """Compare off policy, by Δm = 0.1.

    Plain log-ratios have mean -Δm²/(2s²). Guarded ones have mean 0 and are s ε Δm / s = ε Δm each.
    """
    plain = rl("algorithm=gaussian_grpo", "kl_weight=0", "temperature=1.0", "clip_low=1", "clip_high=1")
    guard = replace(plain, ratio="guard")
    rollout = drawn(three_numbers(0.4), plain)
    assert improve(three_numbers(0.4), rollout, torch.ones(NUM), guard).metrics["ratio/max_dev"] == 0
    moved = [improve(three_numbers(0.5), rollout, torch.ones(NUM), config) for config in (plain, guard)]
    kl = 0.1**2 / (2 * 0.7**2)
    assert moved[0].metrics["approx_kl"] == pytest.approx(kl, rel=0.1)
    noise = (rollout.actions - 0.4) / 0.7
    expected = (0.1 * noise).exp().mean().item()
    assert moved[1].metrics["ratio/mean"] == pytest.approx(expected, rel=1e-4)


def test_the_share_of_ratios_beyond_the_clip_is_reported(rl, drawn):
    config = rl("algorithm=gaussian_grpo", "kl_weight=0", "clip_low=0.1", "clip_high=0.2")
    model = three_numbers()
    rollout = with_ratios(drawn(model, config, 4), [[1.15], [1.3], [0.95], [0.8]])
    assert improve(model, rollout, torch.ones(4), config).metrics["clip_ratio/region_mean"] == 0.5


def test_the_anchor_is_the_squared_distance_of_guided_velocities_wherever_it_looks(rl, drawn):
    """Use w = 2: velocity 3·0.4 + 0.6 against 3·0.1 + 0.6."""
    config = rl("algorithm=flow_grpo", "cfg_strength=2.0", "anchor_weight=0.5")
    model = three_numbers(0.4)
    batch = ExperienceBatch(rollout=drawn(model, config, 10), advantages=torch.ones(10), loss_weight=1.0, metrics={})
    output = anchor_loss(Models(model, three_numbers(0.1)), batch, 0, config)
    output.loss.backward()
    assert output.metrics["loss/anchor"] == pytest.approx(0.81, rel=1e-5)
    assert output.loss.item() == pytest.approx(0.5 * 0.81, rel=1e-5)
    assert gradient(model, "given") == pytest.approx(0.5 * 2 * 0.9 * 3, rel=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "objective", "metric", "expected"),
    [
        ("flow_grpo", anchor_loss, "loss/anchor", 0.7**2),
        ("nft", nft_loss, "loss/kl", 0.7**2),
        ("draft", velocity_anchor, "loss/kl", 0.7**2),
        ("gaussian_grpo", grpo_loss, "loss/kl", 0.7**2 / (2 * 0.7**2)),  # s = 0.7 as well
    ],
)
def test_the_reference_may_have_a_guidance_of_its_own(rl, drawn, algorithm: str, objective, metric: str, expected):
    """Compare velocity 0.4 of the policy with 0.4 + w (0.4 + 0.3) of the same model as its reference, w = 1."""
    gaussian = rl("algorithm=gaussian_grpo", "anchor_weight=0.5", "kl_weight=0.5", "temperature=1.0")
    model, same = three_numbers(0.4), replace(gaussian, algorithm=algorithm)
    rollout = drawn(model, gaussian, 10)
    batch = ExperienceBatch(rollout=rollout, advantages=torch.zeros(10), loss_weight=1.0, metrics={})
    for config, distance in ((same, 0.0), (replace(same, ref_cfg_strength=1.0), expected)):
        output = objective(Models(model, three_numbers(0.4)), batch, 0, config)
        assert output.metrics[metric] == pytest.approx(distance, rel=1e-5)
