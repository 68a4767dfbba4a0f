"""GRPOBatch -> loss of nft: what scored above its group is approached, what scored below is left, on fresh noise.

It needs finished samples alone: no trained steps, no densities, any solver.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from f5_tts.config.schema import RLConfig
from f5_tts.model.flow import interpolate, sway
from f5_tts.model.heads import Velocity
from f5_tts.model.snapshot import Snapshot
from f5_tts.rl.advantage import as_rows
from f5_tts.rl.gaussian import entry_mean
from f5_tts.rl.policy_gradient import Models, velocity_at
from f5_tts.types import ExperienceBatch, LossOutput, Rollout

DECAY_RATE = 0.001  # how fast the old policy's memory grows, per rollout


def nft_loss(models: Models, batch: ExperienceBatch, step: int, rl: RLConfig) -> LossOutput:
    """Diffusion NFT (Zheng et al. 2025, arXiv 2509.16117) at one fresh time for each prompt.

    A_max/b mean_b [ r ‖x̂1(v+) - x1‖² / w+ + (1-r) ‖x̂1(v-) - x1‖² / w- ] + β mean_D (v - v_ref)², where a finished
    sample x1 is noised anew, x_t = (1-t) ε + t x1; v± = v_old ± b (v - v_old); r = 1/2 + clip(A / A_max, -1, 1) / 2;
    w± = mean|x̂1(v±) - x1|, without gradient; v_old is the policy that drew. `step`, from 0, says in which of
    rl.nft.num_times parts of [0, 1] the times lie. Where v_old = v, on policy, the gradient is that of
    (1-t) mean_D(A (v - u)²) / mean_D|v - u| with u = x1 - ε: then b and A_max cancel.
    """
    rollout, settings = batch.rollout, rl.nft
    time, noise = sample_times_and_noise(rollout, step, rl)
    state, target_velocity = interpolate(noise, rollout.mel, time), rollout.mel - noise
    reference_velocity, drawn_velocity = (
        velocity_without_gradient(model, rollout, state, time, rl) for model in models[1:]
    )
    velocity = velocity_at(models.policy, rollout, state, time, rl).mean.float()
    old_velocity = velocity.detach() if drawn_velocity is None else drawn_velocity
    velocity_change = velocity - old_velocity
    error, scaled_change = old_velocity - target_velocity, settings.beta * velocity_change
    positive_weight = (0.5 + (as_rows(batch.advantages) / settings.adv_max).clamp(-1, 1) / 2)[..., None]
    terms = [(positive_weight, error + scaled_change), (1 - positive_weight, error - scaled_change)]
    policy_loss = sum(normalized_error(weight, velocity_error, rollout, 1 - time) for weight, velocity_error in terms)
    policy_loss = settings.adv_max / settings.beta * torch.as_tensor(policy_loss).mean()
    kl = (
        policy_loss.new_zeros(())
        if reference_velocity is None
        else entry_mean((velocity - reference_velocity).square(), rollout.target_mask).mean()
    )
    loss = policy_loss + rl.kl_weight * kl
    distances = {
        "kl/old": entry_mean(velocity_change.detach().square(), rollout.target_mask).mean(),
        "policy/deviation": entry_mean(velocity_change.detach().abs(), rollout.target_mask).mean(),
    }
    metrics = {"loss": loss, "loss/kl": kl, "loss/pro_adv": -policy_loss, **distances}
    return LossOutput(loss=loss, metrics={name: value.item() for name, value in metrics.items()})


def normalized_error(weight: Tensor, error: Tensor, rollout: Rollout, remaining_time: Tensor) -> Tensor:
    """share ‖x̂1 - x1‖² / mean|x̂1 - x1| of each sample, of a velocity that misses by `miss`; x̂1 - x1 = (1-t) miss."""
    scale = entry_mean(error.detach().abs(), rollout.target_mask).clamp(min=1e-5) / remaining_time
    return entry_mean(weight * error.square(), rollout.target_mask) / scale


@torch.no_grad()
def velocity_without_gradient(model: Any, rollout: Rollout, state: Tensor, time: Tensor, rl: RLConfig) -> Tensor | None:
    return None if model is None else velocity_at(model, rollout, state, time, rl).mean.float()


def sample_times_and_noise(rollout: Rollout, step: int, rl: RLConfig) -> tuple[Tensor, Tensor]:
    """A time and a noise for each sample, the same within a group: what its samples share then cancels.

    Times are as dense as the solver's steps, and the groups divide them among themselves.
    """
    _, group = torch.unique(rollout.batch.group_ids, return_inverse=True)
    num = int(group.max()) + 1
    stratum = torch.randperm(num, device=group.device) + torch.rand(num, device=group.device)
    quantile = (step + stratum / num) / rl.nft.num_times
    time = quantile if rl.sway_sampling_coef is None else sway(quantile, rl.sway_sampling_coef)
    noise = torch.randn(num, *rollout.mel.shape[1:], device=rollout.mel.device)
    return time[group], noise[group]


class EmaPolicy:
    """The policy that draws for nft: a running average of the one that learns, with a memory that grows.

    Before rollout i, from 0, θ_old <- η θ_old + (1-η) θ with η = min(0.001 i, rl.nft.old_decay).
    """

    def __init__(self, model: nn.Module, max_decay: float) -> None:
        self.snapshot, self.max_decay, self.rollouts = Snapshot(model), max_decay, 0

    def ema_update(self) -> None:
        self.snapshot.ema_update(min(DECAY_RATE * self.rollouts, self.max_decay))
        self.rollouts += 1

    def __call__(self, *inputs: Any, **options: Any) -> Velocity:
        return self.snapshot(*inputs, **options)

    def state_dict(self) -> dict[str, Any]:
        return {"tensors": self.snapshot.tensors, "rollouts": self.rollouts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.snapshot.load(state["tensors"])
        self.rollouts = state["rollouts"]


def build_old_policy(model: nn.Module, rl: RLConfig) -> EmaPolicy | None:
    """nft's policy that draws, where it is not the one that learns at that moment."""
    return EmaPolicy(model, rl.nft.old_decay) if rl.nft.old_decay > 0 or rl.updates_per_rollout > 1 else None
