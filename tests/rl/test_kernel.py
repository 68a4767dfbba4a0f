from __future__ import annotations

from itertools import pairwise
from math import exp, log

import pytest
import torch
from torch import Tensor

from f5_tts.model.flow import time_grid
from f5_tts.model.heads import Velocity
from f5_tts.rl.gaussian import Gaussian
from f5_tts.rl.kernel import (
    CpsKernel,
    EulerMaruyamaKernel,
    ExactKernel,
    Kernel,
    SdeKernel,
    VelocityKernel,
    build_kernel,
    sample_trained_steps,
)

GRID_OF_8 = "0.000, 0.019, 0.076, 0.169, 0.293, 0.444, 0.617, 0.805, 1.000"  # 1 - cos(π k / 16)


def at(*times: float) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(time, dtype=torch.float64) for time in times)


def step(a: float, x: Tensor, velocity: Tensor, time: float, next_time: float) -> Gaussian:
    return ExactKernel(a).policy(Velocity(velocity, None), x, *at(time, next_time))


def some_points() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, velocity = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    return x, velocity


# --- the stochastic step ---


@pytest.mark.parametrize("time, next_time", [(0.0, 0.1), (0.2, 0.5), (0.9, 1.0)])
def test_a_step_without_noise_is_eulers(time: float, next_time: float):
    x, velocity = some_points()
    mean, std = step(0.0, x, velocity, time, next_time)
    torch.testing.assert_close(mean, x + (next_time - time) * velocity)
    assert std == 0


def test_kept_noise_is_a_power_of_the_ratio_of_odds():
    """Use odds 1/4 at t = 0.2 and 1 at t' = 0.5; a = 1 takes the square root of their ratio."""
    assert ExactKernel(1.0).noise_retention(*at(0.2, 0.5)).item() == pytest.approx(0.5)
    assert ExactKernel(0.5).noise_retention(*at(0.2, 0.5)).item() == pytest.approx(0.25**0.125)


def test_mean_and_noise_of_a_step_by_hand():
    """Compute x = 1, v = 3 by hand: x̂1 = 1 + 0.8·3 = 3.4, x̂0 = 1 - 0.2·3 = 0.4.

    The mean is 0.5·3.4 + 0.5·0.5·0.4, the deviation 0.5 √(1 - 0.25).
    """
    mean, std = step(1.0, torch.tensor([[[1.0]]]), torch.tensor([[[3.0]]]), 0.2, 0.5)
    assert mean.item() == pytest.approx(1.8)
    assert std.item() == pytest.approx(0.5 * 0.75**0.5)


def test_the_first_step_replaces_all_noise():
    x, velocity = some_points()
    mean, std = step(0.5, x, velocity, 0.0, 0.1)
    torch.testing.assert_close(mean, 0.1 * (x + velocity))
    assert std.item() == pytest.approx(0.9)


def test_the_last_step_ends_at_the_speech_it_heads_for():
    x, velocity = some_points()
    mean, std = step(0.5, x, velocity, 0.8, 1.0)
    torch.testing.assert_close(mean, x + 0.2 * velocity)
    assert std == 0


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_the_drift_that_pays_for_the_noise_is_half_its_variance_times_the_score(time: float):
    """Compare with the score -x / var_t of data N(0, 4), in the limit of a short step. Δ = 1e-5, within 1e-3."""
    x, k = torch.tensor([[[1.5]]], dtype=torch.float64), exact_slope(time, 2.0)
    mean, std = step(0.7, x, k * x, time, time + 1e-5)
    score = -x / marginal_variance(time, 2.0)
    torch.testing.assert_close((mean - x - 1e-5 * k * x) / (std.square() / 2), score, rtol=1e-3, atol=0)


@pytest.mark.parametrize("a", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("steps", [2, 16])
def test_a_point_mass_keeps_its_exact_marginals_on_every_grid(a: float, steps: int):
    """Use data at 2: x_t ~ N(2 t, (1-t)²), velocity (2 - x) / (1 - t).

    Mean and variance are computed step by step, without draws.
    """
    mean, variance = 0.0, 1.0
    for time, next_time in pairwise(time_grid(steps, -1.0).tolist()[:-1]):
        slope, level = affine(lambda x, t=time: (2.0 - x) / (1 - t), a, time, next_time)
        std = step(a, torch.zeros(1), torch.zeros(1), time, next_time).std.item()
        mean, variance = slope * mean + level, slope**2 * variance + std**2
        assert mean == pytest.approx(2 * next_time, abs=1e-5)
        assert variance == pytest.approx((1 - next_time) ** 2, rel=1e-4)


@pytest.mark.parametrize("steps, of_euler", [(16, 0.03), (128, 0.005)])
def test_noise_adds_little_to_eulers_own_error_of_a_gaussians_variance_under_sway(steps: int, of_euler: float):
    """Use data N(0, 4) and their exact velocity, which is linear.

    The variance then follows from each step's slope and noise.
    """
    euler, noisy = (final_variance(a, steps, data_std=2.0) for a in (0.0, 0.5))
    assert noisy == pytest.approx(euler, rel=of_euler)


def test_the_error_of_a_gaussians_variance_vanishes_on_a_fine_grid():
    assert final_variance(0.5, 512, data_std=2.0) == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize("steps, of_true, of_euler", [(16, 0.15, 0.03), (128, 0.02, 0.02)])
def test_a_mixture_keeps_its_variance_under_sway(steps: int, of_true: float, of_euler: float):
    """Use two modes at ±1 of width 0.3 (variance 1.09).

    50,000 paths give a standard error of 0.2 % of the variance.
    """
    euler, noisy = (mixture_variance(a, steps) for a in (0.0, 0.5))
    assert noisy == pytest.approx(1.09, rel=of_true)
    assert noisy == pytest.approx(euler, rel=of_euler)


def marginal_variance(time: float, data_std: float) -> float:
    return (1 - time) ** 2 + (time * data_std) ** 2


def exact_slope(time: float, data_std: float) -> float:
    """Compute k of v = E[x1 - x0 | x] = k x for data N(0, data_std²)."""
    return (time * data_std**2 - (1 - time)) / marginal_variance(time, data_std)


def affine(velocity, a: float, time: float, next_time: float) -> tuple[float, float]:
    """Compute slope and intercept of a step's mean as a function of x, for a velocity that is affine in x."""
    x = torch.tensor([0.0, 1.0], dtype=torch.float64)
    low, high = step(a, x, velocity(x), time, next_time).mean.tolist()
    return high - low, low


def final_variance(a: float, steps: int, data_std: float) -> float:
    variance = 1.0
    for time, next_time in pairwise(time_grid(steps, -1.0).tolist()):
        k = exact_slope(time, data_std)
        slope, _ = affine(lambda x, k=k: k * x, a, time, next_time)
        std = step(a, torch.zeros(1), torch.zeros(1), time, next_time).std.item()
        variance = slope**2 * variance + std**2
    return variance


def mixture_variance(a: float, steps: int) -> float:
    """Compute the final variance of 50,000 paths.

    The noise of every step is the shuffled quantiles of the normal distribution.
    """
    torch.manual_seed(0)
    quantiles = torch.special.ndtri((torch.arange(50_000) + 0.5) / 50_000)
    x = quantiles
    for time, next_time in pairwise(time_grid(steps, -1.0)):
        mean, std = ExactKernel(a).policy(Velocity(mixture_velocity(x, time), None), x, time, next_time)
        x = mean + std * quantiles[torch.randperm(len(x))]
    return x.var().item()


def mixture_velocity(x: Tensor, time: Tensor, width: float = 0.3) -> Tensor:
    """Compute E[x1 - x0 | x_t = x], mode by mode.

    Each mode c gives E[x1] = c + t width² (x - t c) / var_t, and E[x0] likewise.
    """
    variance = (1 - time) ** 2 + (time * width) ** 2
    upper = torch.sigmoid(2 * time * x / variance)  # odds of the mode at +1: exp(((x+t)² - (x-t)²) / 2 var)
    velocity = torch.zeros_like(x)
    for mode, weight in ((1.0, upper), (-1.0, 1 - upper)):
        velocity += weight * (mode + (time * width**2 - (1 - time)) * (x - time * mode) / variance)
    return velocity


# --- other stochastic steps ---

ONE, THREE = torch.tensor([[[1.0]]]), torch.tensor([[[3.0]]])


def test_euler_maruyama_by_hand():
    """Compute x = 1, v = 3, a = 1 by hand: σ² = 0.8 / 0.2 = 4.

    The drift is 4 / (2·0.8) (0.2·3 - 1) = -1, so m = 1 + 0.3 (3 - 1) and s = 2 √0.3.
    """
    mean, std = EulerMaruyamaKernel(1.0).policy(Velocity(THREE, None), ONE, *at(0.2, 0.5))
    assert mean.item() == pytest.approx(1.6)
    assert std.item() == pytest.approx(2 * 0.3**0.5)


def test_euler_maruyama_takes_its_noise_from_the_next_time_at_the_start():
    """Compute σ² = 0.9 / 0.1 = 9 at 0.1: m = 1 + 0.1 (3 - 9/2), s = 3 √0.1."""
    mean, std = EulerMaruyamaKernel(1.0).policy(Velocity(THREE, None), ONE, *at(0.0, 0.1))
    assert mean.item() == pytest.approx(0.85)
    assert std.item() == pytest.approx(3 * 0.1**0.5)


def test_a_short_euler_maruyama_step_is_the_exact_one():
    x, velocity = some_points()
    exact, em = (k.policy(Velocity(velocity, None), x, *at(0.3, 0.3 + 1e-6)) for k in KERNELS_OF_A)
    torch.testing.assert_close(em.std / exact.std, torch.tensor(1.0, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close((em.mean - x) / 1e-6, (exact.mean - x) / 1e-6, atol=1e-4, rtol=0)


KERNELS_OF_A = (ExactKernel(0.7), EulerMaruyamaKernel(0.7))


def test_on_the_sway_grid_euler_maruyama_spreads_too_wide_on_the_way_however_fine_the_grid():
    """Compare the largest variance during sampling with the true one: data N(0, 1), a = 0.7.

    exact is within 2 %, em about 55 % too large.
    """
    for steps in (64, 512):
        exact, em = (widest_on_the_way(kernel, steps) for kernel in KERNELS_OF_A)
        assert exact == pytest.approx(1.0, abs=0.02)
        assert em == pytest.approx(1.55, abs=0.15)


def widest_on_the_way(kernel: SdeKernel, steps: int) -> float:
    """Compute the largest ratio of a path's variance to the true one.

    Data are N(0, 1) with their exact velocity k x; the variance is computed step by step.
    """
    variance, widest = 1.0, 1.0
    for time, next_time in pairwise(time_grid(steps, -1.0).double()[:-1]):
        k = exact_slope(time.item(), 1.0)
        one = torch.ones(1, 1, 1, dtype=torch.float64)
        slope, std = kernel.policy(Velocity(k * one, None), one, time, next_time)
        variance = slope.item() ** 2 * variance + std.item() ** 2
        widest = max(widest, variance / marginal_variance(next_time.item(), 1.0))
    return widest


def test_coefficients_preserving_sampling_by_hand_and_as_the_exact_step_of_the_same_kept_noise():
    """Compute η = 1/2 by hand: cos(π/4) of the noise is retained, x̂1 = 3.4, x̂0 = 0.4.

    From odds 1/4 to 1, a² = 1/2 retains √(1/2) as well.
    """
    cps = CpsKernel(0.5).policy(Velocity(THREE, None), ONE, *at(0.2, 0.5))
    assert cps.mean.item() == pytest.approx(0.5 * 3.4 + 0.5 * 0.5**0.5 * 0.4)
    assert cps.std.item() == pytest.approx(0.5 * 0.5**0.5)
    exact = ExactKernel(0.5**0.5).policy(Velocity(THREE, None), ONE, *at(0.2, 0.5))
    torch.testing.assert_close(cps.mean, exact.mean)
    torch.testing.assert_close(cps.std, exact.std)


@pytest.mark.parametrize("kernel", [ExactKernel(0.5), EulerMaruyamaKernel(0.5), CpsKernel(0.5)])
def test_a_kernel_knows_where_it_draws_nothing(kernel: Kernel):
    assert kernel.is_stochastic(*at(0.2, 0.5))
    assert kernel.is_stochastic(*at(0.8, 1.0)) == isinstance(kernel, EulerMaruyamaKernel)


# --- the Gaussian head's step ---


def test_the_gaussian_policy_is_the_head_widened_by_the_temperature():
    x, velocity = some_points()
    policy = VelocityKernel(2.0, False).policy(Velocity(velocity, torch.full_like(x, log(0.3))), x, *at(0.2, 0.5))
    torch.testing.assert_close(policy.mean, velocity)
    torch.testing.assert_close(policy.std, torch.full_like(policy.std, 0.6))


def test_the_drawn_velocity_is_followed():
    x, action = some_points()
    torch.testing.assert_close(VelocityKernel(1.0, False).step(action, x, *at(0.2, 0.5)), x + 0.3 * action)


def test_the_drawn_state_is_where_the_stochastic_step_leads():
    x, action = some_points()
    assert ExactKernel(0.5).step(action, x, *at(0.2, 0.5)) is action


@pytest.mark.parametrize("train_sigma", [False, True])
def test_sigma_gets_a_gradient_only_where_rl_trains_it(train_sigma: bool):
    x, velocity = some_points()
    head = Velocity(velocity.requires_grad_(), torch.zeros_like(x, requires_grad=True))
    policy = VelocityKernel(1.0, train_sigma).policy(head, x, *at(0.2, 0.5))
    assert policy.std.requires_grad == train_sigma
    assert policy.mean.requires_grad


def test_a_trained_sigma_stays_between_exp_of_minus_4_and_exp_of_1():
    ln_sigma = torch.tensor([[[-9.0, 0.0, 9.0]]])
    head = Velocity(torch.zeros(1, 1, 3), ln_sigma)
    trained = VelocityKernel(1.0, True).policy(head, torch.zeros(1, 1, 3), *at(0.2, 0.5))
    torch.testing.assert_close(trained.std.flatten(), torch.tensor([exp(-4), 1.0, exp(1)]))
    frozen = VelocityKernel(1.0, False).policy(head, torch.zeros(1, 1, 3), *at(0.2, 0.5))
    torch.testing.assert_close(frozen.std, ln_sigma.exp())


def test_a_model_without_a_head_is_told_what_it_can_run():
    with pytest.raises(ValueError, match="gaussian_grpo needs a model with a Gaussian head; flow_grpo needs none"):
        VelocityKernel(1.0, False).policy(Velocity(torch.zeros(1, 1, 1), None), torch.zeros(1, 1, 1), *at(0.2, 0.5))


def test_the_algorithm_picks_the_policy(rl):
    assert build_kernel(rl("algorithm=gaussian_grpo", "temperature=3.0")) == VelocityKernel(3.0, False)
    assert build_kernel(rl("algorithm=flow_grpo", "sde.a=0.7")) == ExactKernel(0.7)
    assert build_kernel(rl("algorithm=flow_grpo", "sde.a=0.7", "sde.kernel=em")) == EulerMaruyamaKernel(0.7)
    assert build_kernel(rl("algorithm=flow_grpo", "sde.eta=0.7", "sde.kernel=cps")) == CpsKernel(0.7)


# --- which steps are trained ---


def test_a_fixed_window_takes_the_first_steps_that_start_in_its_range(rl):
    window = rl("window.t_range=[0.05,0.6]", "window.size=2", "window.schedule=fixed")
    assert sample_trained_steps(time_grid(8, -1.0), window) == [2, 3]  # 0.076 and 0.169


def test_a_random_window_is_somewhere_in_its_range_and_its_steps_are_neighbours(rl):
    window = rl("window.t_range=[0.05,0.6]", "window.size=2", "window.schedule=random")
    torch.manual_seed(0)
    drawn = {tuple(sample_trained_steps(time_grid(8, -1.0), window)) for _ in range(60)}
    assert drawn == {(2, 3), (3, 4), (4, 5)}


def test_the_window_goes_by_time_whatever_the_number_of_steps(rl):
    window = rl("window.t_range=[0.1,0.3]", "window.size=2", "window.schedule=fixed")
    for steps in (8, 16, 64):
        grid = time_grid(steps, -1.0)
        assert 0.1 <= grid[sample_trained_steps(grid, window)[0]] <= 0.3


@pytest.mark.parametrize("schedule", ["fixed", "random"])
def test_a_window_wider_than_its_range_takes_all_steps_there(rl, schedule: str):
    window = rl("window.t_range=[0.05,0.6]", "window.size=9", f"window.schedule={schedule}")
    assert sample_trained_steps(time_grid(8, -1.0), window) == [2, 3, 4, 5]


def test_a_window_without_a_step_is_refused_with_the_grid(rl):
    with pytest.raises(ValueError, match=rf"rl\.window\.t_range=\[0\.02, 0\.07\]; the grid is {GRID_OF_8}"):
        sample_trained_steps(time_grid(8, -1.0), rl("window.t_range=[0.02,0.07]"))


def test_a_stochastic_step_without_noise_is_refused_with_the_grid(rl):
    last = rl("algorithm=flow_grpo", "window.t_range=[0.5,1.0]", "window.size=1", "window.schedule=fixed")
    assert sample_trained_steps(time_grid(8, -1.0), last) == [6]
    noiseless = [
        ["window.t_range=[0.8,1.0]"],
        ["sde.a=0"],
        ["sde.kernel=em", "sde.a=0"],
        ["sde.kernel=cps", "sde.eta=0"],
    ]
    for settings in noiseless:
        with pytest.raises(ValueError, match=f"no noise at step .* of the grid {GRID_OF_8}"):
            sample_trained_steps(time_grid(8, -1.0), rl("algorithm=flow_grpo", *settings))


def test_a_random_window_that_may_reach_the_last_step_is_refused_at_once_not_when_it_does(rl):
    window = rl("algorithm=flow_grpo", "window.t_range=[0.4,1.0]", "window.size=1", "window.schedule=random")
    for seed in range(8):
        torch.manual_seed(seed)
        with pytest.raises(ValueError, match="no noise"):
            sample_trained_steps(time_grid(8, -1.0), window)


def test_the_gaussian_policy_may_train_the_last_step(rl):
    window = rl("algorithm=gaussian_grpo", "window.t_range=[0.8,1.0]", "window.size=1")
    assert sample_trained_steps(time_grid(8, -1.0), window) == [7]
