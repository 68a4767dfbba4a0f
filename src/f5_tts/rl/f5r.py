"""Objective of F5R-TTS (Sun et al. 2025, arXiv 2504.02407) as its published code computes it, for comparison only.

Its gradient is wrong; that of gaussian_grpo is right. An action carries the gradient of the policy that drew it, which
cancels the gradient of the mean. With guidance, actions are scored by a distribution from which they were not drawn,
and the gradient points the wrong way. The loss uses the density instead of its logarithm. The gradient runs through the
whole chain of states, so memory grows with rl.steps. The published settings are rl.advantage=grpo, rl.train_sigma=true
and rl.shared_noise=false.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config.schema import RLConfig, group_size
from f5_tts.data.masking import span_mask
from f5_tts.model.flow import time_grid
from f5_tts.model.heads import Velocity, VelocityModel
from f5_tts.rl.advantage import as_rows
from f5_tts.rl.gaussian import Gaussian
from f5_tts.rl.policy_gradient import Models, reference_settings
from f5_tts.rl.rollout import cut_prompts, jitter_durations, pad_for_jitter, prompt_mask, stack_steps
from f5_tts.types import ExperienceBatch, LossOutput, Rollout, SpeechBatch, detached, padding_mask

MIN_GRADIENT_STEPS = 2  # number of first steps that rl.skip_grad_prob never drops from the gradient


# --- rollouts with gradients ---


def draw_with_gradients(policy: VelocityModel, batch: SpeechBatch, rl: RLConfig) -> Iterator[Rollout]:
    """Draw a group of samples per prompt, `rl.mini_repeat_count` of each per forward pass, with their gradients."""
    batch, times = pad_for_jitter(cut_prompts(batch, rl), rl), sample_gradient_times(rl).to(batch.mel.device)
    shared_start = torch.randn_like(batch.mel).repeat_interleave(rl.mini_repeat_count, dim=0)
    for _ in range(group_size(rl) // rl.mini_repeat_count):
        repeated = jitter_durations(batch.repeat(rl.mini_repeat_count), rl)
        start = shared_start if rl.shared_noise else torch.randn_like(shared_start)
        yield rollout_with_gradients(policy, repeated, start, sample_step_noise(start, rl), times, rl)


def rollout_times(rl: RLConfig) -> Float[Tensor, " s"]:
    """Return the time grid of a rollout: rl.steps grid points, as the published code counts them."""
    return time_grid(rl.steps - 1, rl.sway_sampling_coef, rl.epss)


def sample_gradient_times(rl: RLConfig) -> Float[Tensor, " k"]:
    """Draw the start times of the solver steps that stay in the gradient.

    Each step but the first two is dropped with probability rl.skip_grad_prob; of the remaining ones, at most
    rl.max_grad_steps are chosen at random.
    """
    starts = rollout_times(rl)[:-1]
    is_selected = (torch.rand(len(starts)) >= rl.skip_grad_prob) | (torch.arange(len(starts)) < MIN_GRADIENT_STEPS)
    selected = starts[is_selected]
    return selected[torch.randperm(len(selected))[: rl.max_grad_steps].sort().values]


def sample_step_noise(start: Float[Tensor, "b n d"], rl: RLConfig) -> Float[Tensor, "s h b n d"]:
    """Draw noise for each interval: for the conditional half and, with guidance, for the unconditional half."""
    return torch.randn(rl.steps - 1, 2 if rl.cfg_strength > 0 else 1, *start.shape, device=start.device)


def rollout_with_gradients(
    policy: VelocityModel,
    batch: SpeechBatch,
    start: Float[Tensor, "b n d"],
    noise: Float[Tensor, "s h b n d"],
    gradient_times: Float[Tensor, " k"],
    rl: RLConfig,
) -> Rollout:
    """Solve from noise to speech, drawing each velocity: a = a_c + w (a_c - a_u), a_c ~ N(μ_c, σ_c²), a_u likewise.

    Steps that start at one of the times to keep are recorded: the action a with the μ_c and σ_c that it is compared
    with. All of these keep their gradients, which run through the chain of states back to the last step that was left
    out.
    """
    length, prompt = batch.mel.shape[1], prompt_mask(batch)
    cond = batch.mel.masked_fill(~prompt[..., None], 0.0)
    x, states, actions = start, [], []
    distributions: list[Gaussian] = []
    times = rollout_times(rl).to(start.device)
    for (time, next_time), noises in zip(pairwise(times), noise, strict=True):
        has_gradient = bool((gradient_times == time).any())
        with torch.set_grad_enabled(has_gradient and torch.is_grad_enabled()):
            distributions_pair = cond_and_uncond(policy, x, cond, batch, time, rl)
            action = apply_guidance(
                [
                    distribution.mean + distribution.std * unit_noise
                    for distribution, unit_noise in zip(distributions_pair, noises, strict=True)
                ],
                rl,
            )
            next_x = x + (next_time - time) * action
        if has_gradient:
            states.append(x.detach())
            actions.append(action)
            distributions.append(distributions_pair[0])
        x = next_x
    return Rollout(
        batch=batch,
        cond=cond,
        target_mask=span_mask(batch.prompt_lens, batch.lens, length),
        mel=torch.where(prompt[..., None], batch.mel, x.detach()),
        times=gradient_times,
        next_times=times[1:][torch.isin(times[:-1], gradient_times)],
        states=stack_steps(states, x),
        actions=stack_steps(actions, x),
        means=stack_steps([distribution.mean for distribution in distributions], x),
        stds=stack_steps([distribution.std for distribution in distributions], x),
    )


def cond_and_uncond(
    policy: VelocityModel, x: Tensor, cond: Tensor, batch: SpeechBatch, time: Tensor, rl: RLConfig
) -> list[Gaussian]:
    """Compute the distributions of the conditional velocity and, with guidance, of the unconditional one."""
    mask, all_true = padding_mask(batch.lens, x.shape[1]), torch.ones_like(batch.lens, dtype=torch.bool)
    conditions = [{}, {"drop_audio": all_true, "drop_text": all_true}] if rl.cfg_strength > 0 else [{}]
    return [distribution(policy(x, cond, batch.text, time, mask, **condition), rl) for condition in conditions]


def distribution(velocity: Velocity, rl: RLConfig) -> Gaussian:
    """Build the Gaussian of a velocity; σ is detached unless rl.train_sigma is set."""
    assert velocity.ln_sigma is not None, "f5r draws from a Gaussian head"
    std = velocity.ln_sigma.float().exp()
    return Gaussian(velocity.mean.float(), std if rl.train_sigma else std.detach())


def apply_guidance(actions: list[Tensor], rl: RLConfig) -> Float[Tensor, "b n d"]:
    """Apply classifier-free guidance: a_c + w (a_c - a_u), or a_c alone without an unconditional half."""
    cond, *uncond = actions
    return cond + sum(rl.cfg_strength * (cond - (other if rl.cfg_grad_uncond else other.detach())) for other in uncond)


# --- the objective ---


def f5r_loss(models: Models, batch: ExperienceBatch, step: int, rl: RLConfig) -> LossOutput:
    """Compute -mean(A p(a)) + β mean(Σ_k D_k) over all kept steps k at once.

    p is averaged over steps and all target entries of the batch. D is averaged over all entries, prompt and padding
    included. It compares the policy on its own trajectory with the reference on a separate trajectory, so it is not
    zero where both are the same.
    """
    rollout, policy = batch.rollout, Gaussian(batch.rollout.means, batch.rollout.stds)
    weighted = as_rows(batch.advantages)[..., None] * density(rollout.actions, policy, rl.density_eps)
    surrogate = weighted[:, rollout.target_mask].mean()
    kl = surrogate.new_zeros(())
    if models.reference is not None:
        reference_rollout = rollout_reference(models.reference, rollout, reference_settings(rl))
        kl = divergence(policy, reference_rollout, rl.kl_eps).sum(dim=0).mean()
    loss = -surrogate + rl.kl_weight * kl
    std = policy.std[:, rollout.target_mask]
    metrics = {"loss": loss, "loss/kl": kl, "loss/pro_adv": surrogate}
    metrics |= {"policy/sigma_mean": std.mean(), "policy/sigma_min": std.min(), "policy/sigma_max": std.max()}
    return LossOutput(loss=loss, metrics=detached(metrics))


@torch.no_grad()
def rollout_reference(reference: VelocityModel, rollout: Rollout, rl: RLConfig) -> Gaussian:
    """Solve with the reference at the same times from new noise, and return the Gaussians that it draws from."""
    start = torch.randn_like(rollout.mel)
    reference_rollout = rollout_with_gradients(
        reference, rollout.batch, start, sample_step_noise(start, rl), rollout.times, rl
    )
    return Gaussian(reference_rollout.means, reference_rollout.stds)


def density(action: Float[Tensor, "s b n d"], policy: Gaussian, eps: float) -> Float[Tensor, "s b n d"]:
    """Compute exp(-(a - μ)² / (2 (σ² + ε))) / (σ + ε), without the constant √2π."""
    variance = policy.std.square() + eps
    return (-(action - policy.mean).square() / (2 * variance)).exp() / (policy.std + eps)


def divergence(policy: Gaussian, reference: Gaussian, eps: float) -> Float[Tensor, "s b n d"]:
    """Compute ln(σ_r/σ) + (σ² + (μ - μ_r)²) / (2 (σ_r² + ε)): the KL divergence without its -1/2."""
    second_moment = policy.std.square() + (policy.mean - reference.mean).square()
    return (reference.std / policy.std).log() + second_moment / (2 * (reference.std.square() + eps))
