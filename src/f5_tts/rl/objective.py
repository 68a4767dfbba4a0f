"""GRPOBatch -> loss: the clipped policy gradient and the KL to the reference, one trained step at a time.

`nft.py` holds the objective that needs no trained steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from f5_tts.config import RLConfig
from f5_tts.model.cfm import CFM, padding_mask
from f5_tts.model.heads import Velocity
from f5_tts.rl.gaussian import Gaussian, entry_mean, frame_mean, kl_divergence, log_prob
from f5_tts.rl.kernel import build_kernel
from f5_tts.types import GRPOBatch, LossOutput, Rollout


def grpo_objective(policy: CFM, reference: CFM | None, batch: GRPOBatch, step: int, rl: RLConfig) -> LossOutput:
    """mean_b [ -min(r A, clip(r, 1 - ε_low, 1 + ε_high) A) + β KL ] of one trained step.

    r = exp(log π - log π_old), of the action that was drawn, on the state it was drawn at (Shao et al. 2024,
    arXiv 2402.03300; Liu et al. 2025, arXiv 2505.05470). Actions carry no gradient, guidance is part of the mean.
    Where frames have advantages of their own, r and its clip are theirs too, as of tokens in a language model.
    """
    rollout = batch.rollout
    now = policy_at(policy, rollout, step, rl)
    log_ratio = log_prob(rollout.actions[step], now) - rollout.old_log_prob[step]
    whole = frame_mean(log_ratio, rollout.target)
    if batch.advantages.ndim == 1:
        gain = clipped_gain(whole, batch.advantages, rl).mean()
    else:
        gain = frame_mean(clipped_gain(log_ratio, batch.advantages, rl), rollout.target).mean()
    kl = kl_to_reference(now, reference, rollout, step, rl)
    loss = -gain + rl.kl_weight * kl
    seen = {"loss": loss, "loss/kl": kl, "loss/pro_adv": gain, "ratio/max_dev": (whole.exp() - 1).abs().max()}
    seen["policy/sigma_mean"] = entry_mean(now.std.expand_as(now.mean), rollout.target).mean()
    return LossOutput(loss=loss, metrics={name: value.item() for name, value in seen.items()})


def clipped_gain(log_ratio: Tensor, advantages: Tensor, rl: RLConfig) -> Tensor:
    """min(r A, clip(r) A), of samples or of frames."""
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - rl.clip_low, 1 + rl.clip_high) * advantages)


def policy_at(model: CFM, rollout: Rollout, step: int, rl: RLConfig) -> Gaussian:
    """What `model` would draw at a recorded state."""
    x, time, next_time = rollout.states[step], rollout.times[step], rollout.next_times[step]
    return build_kernel(rl).policy(velocity_at(model, rollout, x, time, rl), x, time, next_time)


def velocity_at(model: CFM, rollout: Rollout, x: Tensor, time: Tensor, rl: RLConfig) -> Velocity:
    """The guided velocity at a state x of the rollout's prompts."""
    mask = padding_mask(rollout.batch.lens, x.shape[1])
    return model(x, rollout.cond, rollout.batch.text, time, mask, cfg_strength=rl.cfg_strength)


def kl_to_reference(now: Gaussian, reference: CFM | None, rollout: Rollout, step: int, rl: RLConfig) -> Tensor:
    """Mean over samples of KL(policy || reference) at the same state; zero without a reference."""
    if reference is None:
        return now.mean.new_zeros(())
    with torch.no_grad():
        then = policy_at(reference, rollout, step, rl)
    return kl_divergence(now, then, rollout.target).mean()
