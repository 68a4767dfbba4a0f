from __future__ import annotations

from math import log, pi

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as exact_kl

from f5_tts.rl.gaussian import (
    Gaussian,
    block_noise,
    entropy,
    entry_mean,
    guarded_log_ratio,
    kl_divergence,
    log_density,
    log_ratio,
)

EVERYWHERE = torch.ones(3, 5, dtype=torch.bool)


def random_gaussian(seed: int) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean, ln_std = torch.randn(2, 3, 5, 4, generator=generator)
    return Gaussian(mean, (0.5 * ln_std).exp())


def test_a_log_density_is_that_of_torch_but_for_the_constant():
    policy, action = random_gaussian(0), random_gaussian(1).mean
    expected = Normal(*policy).log_prob(action) + log(2 * pi) / 2
    torch.testing.assert_close(log_density(action, policy), expected)


def test_a_log_ratio_is_the_mean_over_a_frames_bins():
    now, then, action = random_gaussian(0), random_gaussian(1), random_gaussian(2).mean
    expected = (Normal(*now).log_prob(action) - Normal(*then).log_prob(action)).mean(dim=2)
    torch.testing.assert_close(log_ratio(action, now, then), expected)


def test_a_guarded_log_ratio_of_equal_spreads_is_noise_times_shift():
    """Expand the squares: s (ln r + Δm² / (2 s²)) = ε Δm with ε = (a - m_old) / s."""
    then, action, shift = random_gaussian(0), random_gaussian(1).mean, 0.1 * random_gaussian(2).mean
    result = guarded_log_ratio(action, Gaussian(then.mean + shift, then.std), then)
    torch.testing.assert_close(result, ((action - then.mean) / then.std * shift).mean(dim=2), atol=1e-5, rtol=1e-4)


def test_entropy_is_the_mean_of_torchs_over_entries():
    policy = random_gaussian(0)
    torch.testing.assert_close(entropy(policy, EVERYWHERE), Normal(*policy).entropy().mean(dim=(1, 2)))
    one = Gaussian(policy.mean, torch.tensor(0.7))
    expected = torch.full((3,), log(0.7) + (1 + log(2 * pi)) / 2)
    torch.testing.assert_close(entropy(one, EVERYWHERE), expected)


def test_one_standard_deviation_may_serve_all_entries():
    mean, action = random_gaussian(0).mean, random_gaussian(1).mean
    one, each = Gaussian(mean, torch.tensor(0.7)), Gaussian(mean, torch.full_like(mean, 0.7))
    torch.testing.assert_close(log_density(action, one), log_density(action, each))
    torch.testing.assert_close(kl_divergence(one, each, EVERYWHERE), torch.zeros(3), atol=1e-6, rtol=0)


def test_kl_is_the_mean_divergence_per_entry():
    policy, reference = random_gaussian(0), random_gaussian(1)
    expected = exact_kl(Normal(*policy), Normal(*reference)).mean(dim=(1, 2))
    torch.testing.assert_close(kl_divergence(policy, reference, EVERYWHERE), expected)


def test_kl_is_the_mean_log_ratio_of_what_the_policy_draws():
    """Compare with a Monte Carlo mean over 200,000 draws, within four standard errors."""
    torch.manual_seed(0)
    policy = Gaussian(torch.tensor([[[0.3]]]), torch.tensor([[[0.8]]]))
    reference = Gaussian(torch.tensor([[[-0.2]]]), torch.tensor([[[1.1]]]))
    draws = Gaussian(policy.mean.expand(200_000, 1, 1), policy.std).sample()
    everywhere = torch.ones(200_000, 1, dtype=torch.bool)
    ratios = log_ratio(draws, policy, reference)
    error = ratios.std().item() / 200_000**0.5
    assert kl_divergence(policy, reference, everywhere[:1]).item() == pytest.approx(ratios.mean().item(), abs=4 * error)


def test_kl_of_a_policy_to_itself_is_exactly_zero():
    assert kl_divergence(random_gaussian(0), random_gaussian(0), EVERYWHERE).eq(0).all()


def test_only_target_frames_count():
    target = torch.tensor([[False, True, True, False], [False, False, True, False]])
    values = torch.full((2, 4, 3), torch.nan)
    values[target] = torch.tensor([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0], [0.0, 0.0, 9.0]])
    torch.testing.assert_close(entry_mean(values, target), torch.tensor([4.0, 3.0]))


def test_densities_are_computed_in_single_precision():
    policy, action = random_gaussian(0), random_gaussian(1).mean
    half = Gaussian(policy.mean.bfloat16(), policy.std.bfloat16())
    same = Gaussian(half.mean.float(), half.std.float())
    coarse = action.bfloat16()
    assert torch.equal(log_density(coarse, half), log_density(coarse.float(), same))
    assert kl_divergence(half, same, EVERYWHERE).dtype == torch.float32


def test_draws_have_the_mean_and_the_spread_of_the_policy():
    """Take 100,000 draws, and allow four standard errors.

    One standard error is 0.5 / 316 of the mean and 0.5 / 447 of the deviation.
    """
    torch.manual_seed(0)
    draws = Gaussian(torch.full((100_000, 1, 1), 2.0), torch.tensor(0.5)).sample()
    assert draws.mean().item() == pytest.approx(2.0, abs=4 * 0.5 / 316)
    assert draws.std().item() == pytest.approx(0.5, abs=4 * 0.5 / 447)


def test_noise_is_the_same_within_blocks_and_of_unit_variance():
    torch.manual_seed(0)
    noise = block_noise(torch.zeros(20_000, 5, 7), (2, 3))
    for frames in (slice(0, 2), slice(2, 4), slice(4, 5)):  # the last blocks are cut
        for bins in (slice(0, 3), slice(3, 6), slice(6, 7)):
            block = noise[:, frames, bins]
            assert torch.equal(block, block[:, :1, :1].expand_as(block))
    each = noise[:, ::2, ::3].flatten(1)  # one entry of each of the 3 x 3 blocks
    torch.testing.assert_close(each.T @ each / len(each), torch.eye(9), atol=4 * (2 / 20_000) ** 0.5, rtol=0)


def test_noise_in_blocks_of_one_entry_is_that_of_older_versions():
    torch.manual_seed(3)
    expected = torch.randn(2, 5, 7)
    torch.manual_seed(3)
    assert torch.equal(block_noise(torch.zeros(2, 5, 7), [1, 1]), expected)


def test_the_policy_gradient_with_noise_in_blocks_is_the_exact_one_of_the_block_means():
    """Compare E[R ∇ mean log π] for the reward R = <w, a> with its closed form: each block's sum of w, by N entries."""
    torch.manual_seed(0)
    draws, weights = 50_000, torch.arange(24.0).view(4, 6) / 24
    mean = torch.zeros(draws, 4, 6, requires_grad=True)
    policy = Gaussian(mean, torch.tensor(0.5))
    with torch.no_grad():
        action = policy.sample((2, 3))
        reward = (action * weights).sum(dim=(1, 2))
    (log_density(action, policy).mean(dim=(1, 2)) * reward).sum().backward()
    assert mean.grad is not None
    by_block = weights.view(2, 2, 2, 3).sum(dim=(1, 3)) / 24
    expected = by_block.repeat_interleave(2, dim=0).repeat_interleave(3, dim=1)
    error = mean.grad.std(dim=0) / draws**0.5
    assert ((mean.grad.mean(dim=0) - expected).abs() < 4 * error).all()
