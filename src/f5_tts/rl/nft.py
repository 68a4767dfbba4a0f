"""Loss of nft (Diffusion NFT): moves towards samples above their group and away from those below, on fresh noise.

It needs finished samples only: no trained steps, no densities, any solver.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from f5_tts.config.schema import RLConfig
from f5_tts.model.flow import interpolate, sway
from f5_tts.model.heads import Velocity
from f5_tts.model.snapshot import Snapshot
from f5_tts.rl.advantage import as_rows
from f5_tts.rl.gaussian import entry_mean
from f5_tts.rl.policy_gradient import Models, Noised, reference_settings, velocity_at
from f5_tts.types import ExperienceBatch, LossOutput, Rollout, detached

DECAY_RATE = 0.001  # growth of the old policy's decay η per rollout


def nft_loss(models: Models, batch: ExperienceBatch, step: int, rl: RLConfig) -> LossOutput:
    """Compute the loss of Diffusion NFT (Zheng et al. 2025, arXiv 2509.16117) at one fresh time for each prompt.

    A_max/b mean_b [ r ‖x̂1(v+) - x1‖² / w+ + (1-r) ‖x̂1(v-) - x1‖² / w- ] + β mean_D (v - v_ref)², where a finished
    sample x1 is noised anew, x_t = (1-t) ε + t x1; v± = v_old ± b (v - v_old); r = 1/2 + clip(A / A_max, -1, 1) / 2; w±
    = mean|x̂1(v±) - x1|, without gradient; v_old is the policy that drew. `step`, from 0, selects which of the
    rl.nft.num_times parts of rl.nft.t_range the times lie in. On policy, where v_old = v, the gradient is that of (1-t)
    mean_D(A (v - u)²) / mean_D|v - u| with u = x1 - ε: b and A_max then cancel.
    """
    rollout, settings = batch.rollout, rl.nft
    time, noise, reference_velocity = models.answer or ask_at_fresh_times(models, batch, step, rl)
    state, target_velocity = interpolate(noise, rollout.mel, time), rollout.mel - noise
    drawn_velocity = velocity_without_gradient(models.old, rollout, state, time, rl)
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
    return LossOutput(loss=loss, metrics=detached(metrics))


def ask_at_fresh_times(models: Models, batch: ExperienceBatch, step: int, rl: RLConfig) -> Noised:
    """Draw times and noise for the finished samples, and compute the reference's velocity there, if there is one."""
    rollout = batch.rollout
    time, noise = sample_times_and_noise(rollout, step, rl)
    state, settings = interpolate(noise, rollout.mel, time), reference_settings(rl)
    return Noised(time, noise, velocity_without_gradient(models.reference, rollout, state, time, settings))


def normalized_error(weight: Tensor, error: Tensor, rollout: Rollout, remaining_time: Tensor) -> Tensor:
    """Compute r ‖x̂1 - x1‖² / mean|x̂1 - x1| of each sample, for a positive weight r.

    The velocity error e gives x̂1 - x1 = (1-t) e. The denominator has no gradient.
    """
    scale = entry_mean(error.detach().abs(), rollout.target_mask).clamp(min=1e-5) / remaining_time
    return entry_mean(weight * error.square(), rollout.target_mask) / scale


@torch.no_grad()
def velocity_without_gradient(model: Any, rollout: Rollout, state: Tensor, time: Tensor, rl: RLConfig) -> Tensor | None:
    """Compute the guided velocity without gradients, in single precision; None without a model."""
    return None if model is None else velocity_at(model, rollout, state, time, rl).mean.float()


def sample_times_and_noise(rollout: Rollout, step: int, rl: RLConfig) -> tuple[Tensor, Tensor]:
    """Draw a time and a noise for each sample, the same within a group, so that what its samples share cancels.

    The times are stratified over the groups, and as dense as the solver's steps, whose whole range is mapped to
    rl.nft.t_range.
    """
    group, num = rollout.group, rollout.num_groups
    stratum = torch.randperm(num, device=group.device) + torch.rand(num, device=group.device)
    quantile = (step + stratum / num) / rl.nft.num_times
    (low, high), coef = rl.nft.t_range, rl.sway_sampling_coef
    time = low + (high - low) * (quantile if coef is None else sway(quantile, coef))
    noise = torch.randn(num, *rollout.mel.shape[1:], device=rollout.mel.device)
    return time[group], noise[group]


class EmaPolicy:
    """Policy that draws the samples of nft: an exponential moving average of the trained policy.

    Before rollout i, counted from 0, θ_old <- η θ_old + (1-η) θ with η = min(0.001 i, rl.nft.old_decay).
    """

    added_keys: ClassVar[dict[str, bool]] = {"is_ahead": False}  # of the state, with what older checkpoints mean

    def __init__(self, model: nn.Module, max_decay: float) -> None:
        self.snapshot, self.max_decay, self.rollouts = Snapshot(model), max_decay, 0
        self.is_ahead = False  # whether the average is that of a rollout whose first update is not made
        self.skips_next = False  # whether a checkpoint was saved with such an average

    def ema_update(self) -> None:
        """Update the average with the current weights; called once before each rollout."""
        if not self.skips_next:
            self.snapshot.ema_update(min(DECAY_RATE * self.rollouts, self.max_decay))
            self.rollouts += 1
        self.is_ahead, self.skips_next = True, False

    def commit(self) -> None:
        """Note that the first update of the rollout is made."""
        self.is_ahead = False

    def __call__(self, *inputs: Any, **options: Any) -> Velocity:
        """Compute the velocity with the averaged weights."""
        return self.snapshot(*inputs, **options)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights, the number of rollouts, and whether its update is not made, for a checkpoint."""
        return {"tensors": self.snapshot.tensors, "rollouts": self.rollouts, "is_ahead": self.is_ahead}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the averaged weights and the number of rollouts from a checkpoint."""
        self.snapshot.load(state["tensors"])
        self.rollouts = state["rollouts"]
        self.skips_next = (self.added_keys | state)["is_ahead"]


def build_old_policy(model: nn.Module, rl: RLConfig) -> EmaPolicy | None:
    """Build the policy that draws for nft; None where the trained policy itself draws."""
    return EmaPolicy(model, rl.nft.old_decay) if rl.nft.old_decay > 0 or rl.updates_per_rollout > 1 else None
