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
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from f5_tts.config.schema import RLConfig, group_size
from f5_tts.data.masking import span_mask
from f5_tts.model.flow import time_grid
from f5_tts.model.heads import Velocity, VelocityModel
from f5_tts.rl.advantage import as_rows
from f5_tts.rl.gaussian import Gaussian
from f5_tts.rl.policy_gradient import Models, reference_settings
from f5_tts.rl.rollout import cut_prompts, jitter_durations, pad_for_jitter, prompt_mask
from f5_tts.types import ExperienceBatch, LossOutput, Rollout, SpeechBatch, detached, padding_mask

MIN_GRADIENT_STEPS = 2  # number of first steps that rl.skip_grad_prob never drops from the gradient
Conditions: TypeAlias = tuple[Tensor, Tensor, Tensor | None]  # cond, text and mask of the model


# --- rollouts with gradients ---


def draw_with_gradients(policy: VelocityModel, batch: SpeechBatch, rl: RLConfig) -> Iterator[Rollout]:
    """Draw a group of samples per prompt, `rl.mini_repeat_count` of each per forward pass, with their gradients."""
    batch, kept_steps = pad_for_jitter(cut_prompts(batch, rl), rl), sample_gradient_steps(rl)
    shared_start = torch.randn_like(batch.mel).repeat_interleave(rl.mini_repeat_count, dim=0)
    for _ in range(group_size(rl) // rl.mini_repeat_count):
        repeated = jitter_durations(batch.repeat(rl.mini_repeat_count), rl)
        start = shared_start if rl.shared_noise else torch.randn_like(shared_start)
        yield rollout_with_gradients(policy, repeated, start, sample_step_noise(start, rl), kept_steps, rl)


def rollout_times(rl: RLConfig) -> Float[Tensor, " s"]:
    """Return the time grid of a rollout: rl.steps grid points, as the published code counts them."""
    return time_grid(rl.steps - 1, rl.sway_sampling_coef, rl.epss)


def sample_gradient_steps(rl: RLConfig) -> list[int]:
    """Draw the solver steps that stay in the gradient.

    Each step but the first two is dropped with probability rl.skip_grad_prob; of the remaining ones, at most
    rl.max_grad_steps are chosen at random.
    """
    is_selected = (torch.rand(rl.steps - 1) >= rl.skip_grad_prob) | (torch.arange(rl.steps - 1) < MIN_GRADIENT_STEPS)
    selected = is_selected.nonzero().flatten()
    return selected[torch.randperm(len(selected))[: rl.max_grad_steps].sort().values].tolist()


def sample_step_noise(start: Float[Tensor, "b n d"], rl: RLConfig) -> Float[Tensor, "s h b n d"]:
    """Draw noise for each interval: for the conditional half and, with guidance, for the unconditional half."""
    return torch.randn(rl.steps - 1, 2 if rl.cfg_strength > 0 else 1, *start.shape, device=start.device)


def rollout_with_gradients(
    policy: VelocityModel,
    batch: SpeechBatch,
    start: Float[Tensor, "b n d"],
    noise: Float[Tensor, "s h b n d"],
    kept_steps: list[int],
    rl: RLConfig,
) -> Rollout:
    """Solve from noise to speech, and record the kept steps with their gradients."""
    length, prompt, times = batch.mel.shape[1], prompt_mask(batch), rollout_times(rl).to(start.device)
    cond = batch.mel.masked_fill(~prompt[..., None], 0.0)
    x, steps = draw_steps(policy, start, (cond, batch.text, padding_mask(batch.lens, length)), noise, kept_steps, rl)
    states, actions, means, stds = map(torch.stack, zip(*(steps[step] for step in kept_steps), strict=True))
    return Rollout(
        batch=batch,
        cond=cond,
        target_mask=span_mask(batch.prompt_lens, batch.lens, length),
        mel=torch.where(prompt[..., None], batch.mel, x.detach()),
        times=times[:-1][kept_steps],
        next_times=times[1:][kept_steps],
        states=states,
        actions=actions,
        means=means,
        stds=stds,
    )


def draw_steps(
    policy: VelocityModel, x: Tensor, given: Conditions, noise: Tensor, kept_steps: list[int], rl: RLConfig
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """Solve from noise to speech, drawing each velocity: a = a_c + w (a_c - a_u), a_c ~ N(μ_c, σ_c²), a_u likewise.

    Returns the speech, and of each step its state, a, and the μ_c and σ_c that a is compared with. Kept steps have
    gradients, which run through the chain of states back to the last step that was left out.
    """
    steps = []
    for step, (time, next_time) in enumerate(pairwise(rollout_times(rl).to(x.device))):
        with torch.set_grad_enabled(step in kept_steps and torch.is_grad_enabled()):
            pair = cond_and_uncond(policy, x, time, given, rl)
            draws = [drawn.mean + drawn.std * unit_noise for drawn, unit_noise in zip(pair, noise[step], strict=True)]
            action = apply_guidance(draws, rl)
            next_x = x + (next_time - time) * action
        steps.append((x.detach(), action, *pair[0]))
        x = next_x
    return x, steps


def cond_and_uncond(policy: VelocityModel, x: Tensor, time: Tensor, given: Conditions, rl: RLConfig) -> list[Gaussian]:
    """Compute the distributions of the conditional velocity and, with guidance, of the unconditional one."""
    (cond, text, mask), all_true = given, torch.ones(len(x), dtype=torch.bool, device=x.device)
    dropped = [{}, {"drop_audio": all_true, "drop_text": all_true}] if rl.cfg_strength > 0 else [{}]
    return [distribution(policy(x, cond, text, time, mask, **drop), rl) for drop in dropped]


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
    std, target = policy.std, rollout.target_mask[..., None]
    weighted = as_rows(batch.advantages)[..., None] * density(rollout.actions, policy, rl.density_eps)
    surrogate = target_mean(weighted, target)
    reference = models.answer or ask_on_its_path(models, batch, step, rl)
    kl = surrogate.new_zeros(()) if reference is None else divergence(policy, reference, rl.kl_eps).sum(dim=0).mean()
    loss = -surrogate + rl.kl_weight * kl
    metrics = {"loss": loss, "loss/kl": kl, "loss/pro_adv": surrogate, "policy/sigma_mean": target_mean(std, target)}
    metrics |= {"policy/sigma_min": std.where(target, torch.inf).min(), "policy/sigma_max": std.where(target, 0).max()}
    return LossOutput(loss=loss, metrics=detached(metrics))


def ask_on_its_path(models: Models, batch: ExperienceBatch, step: int, rl: RLConfig) -> Gaussian | None:
    """Compute the distributions of the reference on a trajectory of its own; None without a reference."""
    if models.reference is None:
        return None
    return rollout_reference(models.reference, batch.rollout, reference_settings(rl))


def target_mean(values: Float[Tensor, "s b n d"], target: Bool[Tensor, "b n 1"]) -> Float[Tensor, ""]:
    """Average over all steps and target entries; to select these would wait for a GPU."""
    return values.mean(dim=(0, 3))[..., None].where(target, 0).sum() / target.sum()


@torch.no_grad()
def rollout_reference(reference: VelocityModel, rollout: Rollout, rl: RLConfig) -> Gaussian:
    """Solve with the reference at the same times from new noise, and return the Gaussians that it draws from."""
    start, given = torch.randn_like(rollout.mel), (rollout.cond, rollout.batch.text, rollout.mask)
    _, steps = draw_steps(reference, start, given, sample_step_noise(start, rl), [], rl)
    kept = torch.searchsorted(rollout_times(rl).to(start.device), rollout.times)
    return Gaussian(*(torch.stack(values)[kept] for values in list(zip(*steps, strict=True))[2:]))


def density(action: Float[Tensor, "s b n d"], policy: Gaussian, eps: float) -> Float[Tensor, "s b n d"]:
    """Compute exp(-(a - μ)² / (2 (σ² + ε))) / (σ + ε), without the constant √2π."""
    variance = policy.std.square() + eps
    return (-(action - policy.mean).square() / (2 * variance)).exp() / (policy.std + eps)


def divergence(policy: Gaussian, reference: Gaussian, eps: float) -> Float[Tensor, "s b n d"]:
    """Compute ln(σ_r/σ) + (σ² + (μ - μ_r)²) / (2 (σ_r² + ε)): the KL divergence without its -1/2."""
    second_moment = policy.std.square() + (policy.mean - reference.mean).square()
    return (reference.std / policy.std).log() + second_moment / (2 * (reference.std.square() + eps))
