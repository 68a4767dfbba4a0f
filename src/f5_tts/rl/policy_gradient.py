"""Clipped policy gradient, and KL to the reference, of one trained step at a time.

`nft.py` has the objective that needs no trained steps, `f5r.py` the published one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config.schema import RLConfig
from f5_tts.model.flow import interpolate
from f5_tts.model.heads import Velocity, VelocityModel
from f5_tts.rl.gaussian import (
    Gaussian,
    entropy,
    entry_mean,
    frame_mean,
    guarded_log_ratio,
    kl_divergence,
    log_ratio,
)
from f5_tts.rl.kernel import build_kernel
from f5_tts.types import ExperienceBatch, LossOutput, Rollout, detached

RATIOS = {"mean": log_ratio, "guard": guarded_log_ratio}  # rl.ratio


class Models(NamedTuple):
    """Models of an objective: the trained policy, and earlier states of it without gradients."""

    policy: VelocityModel
    reference: VelocityModel | None = None  # the policy at the start of stage 2; None without rl.kl_weight
    old: VelocityModel | None = None  # nft: the policy that drew; None where it is the trained policy
    answer: Any = None  # of the reference to this slice, where it was asked before the first one; see `ask_ahead`


class Noised(NamedTuple):
    """Flow times and noise of finished samples, and the reference's velocity there."""

    time: Float[Tensor, " b"]
    noise: Float[Tensor, "b n d"]
    reference_velocity: Float[Tensor, "b n d"] | None  # None without a reference


def grpo_loss(models: Models, batch: ExperienceBatch, step: int, rl: RLConfig) -> LossOutput:
    """Compute mean_b [ -min(r A, clip(r, 1 - ε_low, 1 + ε_high) A) + β KL ] of one trained step.

    r = exp(log π - log π_old), of the action that was drawn, at the state where it was drawn (Shao et al. 2024, arXiv
    2402.03300; Liu et al. 2025, arXiv 2505.05470). Actions carry no gradient; guidance is part of the mean. With frame
    advantages, r and its clip are per frame too, like those of tokens in a language model.
    """
    rollout = batch.rollout
    old = Gaussian(rollout.means[step], rollout.stds[step])
    reference = models.answer or ask_at_step(models, batch, step, rl)  # before the policy's graph, to save memory
    current = policy_at(models.policy, rollout, step, rl)
    if not rl.train_sigma:
        # frozen σ: the one used for drawing, although changed features may change the head's output
        current = Gaussian(current.mean, old.std)
    by_frame = RATIOS[rl.ratio](rollout.actions[step], current, old)
    sample_log_ratio = frame_mean(by_frame, rollout.target_mask)
    if batch.advantages.ndim == 1:
        surrogate = clipped_surrogate(sample_log_ratio, batch.advantages, rl).mean()
    else:
        surrogate = frame_mean(clipped_surrogate(by_frame, batch.advantages, rl), rollout.target_mask).mean()
    kl = surrogate.new_zeros(())
    if reference is not None:
        reference_std = reference.std if rl.train_sigma else current.std
        kl = kl_divergence(current, Gaussian(reference.mean, reference_std), rollout.target_mask).mean()
    loss = -surrogate + rl.kl_weight * kl
    metrics = {
        "loss": loss,
        "loss/kl": kl,
        "loss/pro_adv": surrogate,
        **policy_metrics(current, sample_log_ratio.detach(), rollout, rl),
    }
    return LossOutput(loss=loss, metrics=detached(metrics))


def ask_at_step(models: Models, batch: ExperienceBatch, step: int, rl: RLConfig) -> Gaussian | None:
    """Compute the distribution of the reference at a trained step; None without a reference."""
    if models.reference is None:
        return None
    return frozen_policy(models.reference, batch.rollout, step, reference_settings(rl))


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, rl: RLConfig) -> Tensor:
    """Compute the clipped surrogate min(r A, clip(r) A), of samples or of frames."""
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - rl.clip_low, 1 + rl.clip_high) * advantages)


@torch.no_grad()
def policy_metrics(current: Gaussian, log_ratio: Tensor, rollout: Rollout, rl: RLConfig) -> dict[str, Tensor]:
    """Compute metrics of the trust region and of σ; names as in docs/metrics.md."""
    ratio_deviation = log_ratio.exp() - 1
    low, high = (ratio_deviation < -rl.clip_low).float().mean(), (ratio_deviation > rl.clip_high).float().mean()
    std = entry_mean(current.std.expand_as(current.mean), rollout.target_mask)
    return {
        "ratio/mean": 1 + ratio_deviation.mean(),
        "ratio/max_dev": ratio_deviation.abs().max(),
        "clip_ratio/region_mean": low + high,
        "clip_ratio/low_mean": low,
        "clip_ratio/high_mean": high,
        "approx_kl": (ratio_deviation - log_ratio).mean(),
        "policy/sigma_mean": std.mean(),
        "policy/sigma_min": std.min(),
        "policy/sigma_max": std.max(),
        "policy/entropy": entropy(current, rollout.target_mask).mean(),
    }


def anchor_loss(models: Models, batch: ExperienceBatch, step: int, rl: RLConfig) -> LossOutput:
    """Compute λ_v mean_D (v - v_ref)² at a random time of each finished sample.

    The KL of the trained steps limits the policy only inside their window; this term limits it at every time.
    """
    distance = reference_distance(models, batch, models.answer or ask_anywhere(models, batch, step, rl), rl)
    return LossOutput(loss=rl.anchor_weight * distance, metrics={"loss/anchor": distance.detach()})


def ask_anywhere(models: Models, batch: ExperienceBatch, step: int, rl: RLConfig) -> Noised:
    """Draw a time and noise for each finished sample, and compute the reference's velocity there."""
    mel = batch.rollout.mel
    return ask_at_times(models, batch.rollout, torch.rand(len(mel), device=mel.device), rl)


def with_anchor_of(rl: RLConfig, update: int, key: str = "anchor_weight") -> RLConfig:
    """Return the settings of an update: every rl.anchor_every-th has an anchor, of as many times the weight (`key`)."""
    weight = getattr(rl, key) * rl.anchor_every if update % rl.anchor_every == 0 else 0.0
    return replace(rl, **{key: weight})


@torch.no_grad()
def ask_at_times(models: Models, rollout: Rollout, time: Float[Tensor, " b"], rl: RLConfig) -> Noised:
    """Draw noise for the finished samples, and compute the reference's velocity at these flow times."""
    assert models.reference is not None, "an anchor needs a reference"
    noise = torch.randn_like(rollout.mel)
    state = interpolate(noise, rollout.mel, time)
    velocity = velocity_at(models.reference, rollout, state, time, reference_settings(rl)).mean.to(state)
    return Noised(time, noise, velocity)


def reference_distance(models: Models, batch: ExperienceBatch, at: Noised, rl: RLConfig) -> Float[Tensor, ""]:
    """Compute mean_D (v - v_ref)² of the finished samples, noised anew."""
    assert at.reference_velocity is not None, "an anchor needs a reference"
    rollout = batch.rollout
    state = interpolate(at.noise, rollout.mel, at.time)
    velocity = velocity_at(models.policy, rollout, state, at.time, rl).mean.to(state)
    return entry_mean((velocity - at.reference_velocity).square(), rollout.target_mask).mean()


def reference_settings(rl: RLConfig) -> RLConfig:
    """Return the settings of the reference: those of the policy, but for its guidance strength.

    A reference of stronger guidance than the policy's is guidance distillation (Meng et al. 2022, arXiv 2210.03142).
    """
    return rl if rl.ref_cfg_strength is None else replace(rl, cfg_strength=rl.ref_cfg_strength)


@torch.no_grad()
def frozen_policy(model: VelocityModel, rollout: Rollout, step: int, rl: RLConfig) -> Gaussian:
    """Compute the distribution of a frozen model at a recorded step, without gradients."""
    return policy_at(model, rollout, step, rl)


def policy_at(model: VelocityModel, rollout: Rollout, step: int, rl: RLConfig) -> Gaussian:
    """Compute the distribution of `model`'s action at a recorded state."""
    x, time, next_time = rollout.states[step], rollout.times[step], rollout.next_times[step]
    return build_kernel(rl).policy(velocity_at(model, rollout, x, time, rl), x, time, next_time)


def velocity_at(model: VelocityModel, rollout: Rollout, x: Tensor, time: Tensor, rl: RLConfig) -> Velocity:
    """Compute the guided velocity of `model` at a state x of the rollout's prompts."""
    guidance = {"cfg_strength": rl.cfg_strength, "grad_uncond": rl.cfg_grad_uncond}
    return model(x, rollout.cond, rollout.batch.text, time, rollout.mask, **guidance)


def check_on_policy(metrics: dict[str, float], rl: RLConfig) -> dict[str, float]:
    """Check that the ratio is 1 before any update; return its deviation as a metric.

    Raises FloatingPointError when drawing and training disagree: the gradient would then be that of another
    objective.
    """
    if "ratio/max_dev" not in metrics:
        return {}
    deviation, limit = metrics["ratio/max_dev"], min(rl.clip_low, rl.clip_high) / 10
    if deviation > limit:
        raise FloatingPointError(
            f"the probability ratio differs from 1 by {deviation:.2g} before any update (allowed: {limit:.2g}, a "
            "tenth of rl.clip_low and rl.clip_high): sampling and training do not agree; is dropout on, or "
            "optim.mixed_precision too low?"
        )
    return {"ratio/initial_max_dev": deviation}
