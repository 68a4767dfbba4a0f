"""GRPOBatch -> loss: the clipped policy gradient and the KL to the reference, one trained step at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from f5_tts.config import RLConfig
from f5_tts.model.cfm import CFM, padding_mask
from f5_tts.rl.gaussian import Gaussian, entry_mean, kl_divergence, log_prob
from f5_tts.rl.kernel import build_kernel
from f5_tts.types import GRPOBatch, LossOutput, Rollout


def grpo_objective(policy: CFM, reference: CFM | None, batch: GRPOBatch, step: int, rl: RLConfig) -> LossOutput:
    """mean_b [ -min(r A, clip(r, 1 - ε_low, 1 + ε_high) A) + β KL ] of one trained step.

    r = exp(log π - log π_old), of the action that was drawn, on the state it was drawn at (Shao et al. 2024,
    arXiv 2402.03300; Liu et al. 2025, arXiv 2505.05470). Actions carry no gradient, guidance is part of the mean.
    """
    rollout, advantages = batch.rollout, batch.advantages
    now = policy_at(policy, rollout, step, rl)
    log_ratio = log_prob(rollout.actions[step], now, rollout.target) - rollout.old_log_prob[step]
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - rl.clip_low, 1 + rl.clip_high)
    gain = torch.minimum(ratio * advantages, clipped * advantages).mean()
    kl = kl_to_reference(now, reference, rollout, step, rl)
    loss = -gain + rl.kl_weight * kl
    seen = {"loss": loss, "loss/kl": kl, "loss/pro_adv": gain, "ratio/max_dev": (ratio - 1).abs().max()}
    seen["policy/sigma_mean"] = entry_mean(now.std.expand_as(now.mean), rollout.target).mean()
    return LossOutput(loss=loss, metrics={name: value.item() for name, value in seen.items()})


def policy_at(model: CFM, rollout: Rollout, step: int, rl: RLConfig) -> Gaussian:
    """What `model` would draw at a recorded state."""
    x, time, next_time = rollout.states[step], rollout.times[step], rollout.next_times[step]
    mask = padding_mask(rollout.batch.lens, x.shape[1])
    velocity = model(x, rollout.cond, rollout.batch.text, time, mask, cfg_strength=rl.cfg_strength)
    return build_kernel(rl).policy(velocity, x, time, next_time)


def kl_to_reference(now: Gaussian, reference: CFM | None, rollout: Rollout, step: int, rl: RLConfig) -> Tensor:
    """Mean over samples of KL(policy || reference) at the same state; zero without a reference."""
    if reference is None:
        return now.mean.new_zeros(())
    with torch.no_grad():
        then = policy_at(reference, rollout, step, rl)
    return kl_divergence(now, then, rollout.target).mean()
