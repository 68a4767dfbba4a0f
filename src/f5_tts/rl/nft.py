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
from f5_tts.types import GRPOBatch, LossOutput, Rollout

DECAY_RATE = 0.001  # how fast the old policy's memory grows, per rollout


def nft_objective(models: Models, batch: GRPOBatch, step: int, rl: RLConfig) -> LossOutput:
    """Diffusion NFT (Zheng et al. 2025, arXiv 2509.16117) at one fresh time for each prompt.

    A_max/b mean_b [ r ‖x̂1(v+) - x1‖² / w+ + (1-r) ‖x̂1(v-) - x1‖² / w- ] + β mean_D (v - v_ref)², where a finished
    sample x1 is noised anew, x_t = (1-t) ε + t x1; v± = v_old ± b (v - v_old); r = 1/2 + clip(A / A_max, -1, 1) / 2;
    w± = mean|x̂1(v±) - x1|, without gradient; v_old is the policy that drew. `step`, from 0, says in which of
    rl.nft.num_times parts of [0, 1] the times lie. Where v_old = v, on policy, the gradient is that of
    (1-t) mean_D(A (v - u)²) / mean_D|v - u| with u = x1 - ε: then b and A_max cancel.
    """
    rollout, settings = batch.rollout, rl.nft
    time, noise = fresh_noise(rollout, step, rl)
    state, aim = interpolate(noise, rollout.mel, time), rollout.mel - noise
    anchor, drew = (velocity_without_gradient(model, rollout, state, time, rl) for model in models[1:])
    velocity = velocity_at(models.policy, rollout, state, time, rl).mean.float()
    old = velocity.detach() if drew is None else drew
    moved = velocity - old
    error, change = old - aim, settings.beta * moved
    share = (0.5 + (as_rows(batch.advantages) / settings.adv_max).clamp(-1, 1) / 2)[..., None]
    sides = [(share, error + change), (1 - share, error - change)]
    pull = sum(weighted_error(part, miss, rollout, 1 - time) for part, miss in sides)
    pull = settings.adv_max / settings.beta * torch.as_tensor(pull).mean()
    kl = pull.new_zeros(()) if anchor is None else entry_mean((velocity - anchor).square(), rollout.target).mean()
    loss = pull + rl.kl_weight * kl
    away = {
        "kl/old": entry_mean(moved.detach().square(), rollout.target).mean(),
        "policy/deviation": entry_mean(moved.detach().abs(), rollout.target).mean(),
    }
    seen = {"loss": loss, "loss/kl": kl, "loss/pro_adv": -pull, **away}
    return LossOutput(loss=loss, metrics={name: value.item() for name, value in seen.items()})


def weighted_error(share: Tensor, miss: Tensor, rollout: Rollout, left: Tensor) -> Tensor:
    """share ‖x̂1 - x1‖² / mean|x̂1 - x1| of each sample, of a velocity that misses by `miss`; x̂1 - x1 = (1-t) miss."""
    scale = entry_mean(miss.detach().abs(), rollout.target).clamp(min=1e-5) / left
    return entry_mean(share * miss.square(), rollout.target) / scale


@torch.no_grad()
def velocity_without_gradient(model: Any, rollout: Rollout, state: Tensor, time: Tensor, rl: RLConfig) -> Tensor | None:
    return None if model is None else velocity_at(model, rollout, state, time, rl).mean.float()


def fresh_noise(rollout: Rollout, step: int, rl: RLConfig) -> tuple[Tensor, Tensor]:
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


class OldPolicy:
    """The policy that draws for nft: a running average of the one that learns, with a memory that grows.

    Before rollout i, from 0, θ_old <- η θ_old + (1-η) θ with η = min(0.001 i, rl.nft.old_decay).
    """

    def __init__(self, model: nn.Module, most: float) -> None:
        self.snapshot, self.most, self.rollouts = Snapshot(model), most, 0

    def follow(self) -> None:
        self.snapshot.follow(min(DECAY_RATE * self.rollouts, self.most))
        self.rollouts += 1

    def __call__(self, *inputs: Any, **options: Any) -> Velocity:
        return self.snapshot(*inputs, **options)

    def state_dict(self) -> dict[str, Any]:
        return {"tensors": self.snapshot.tensors, "rollouts": self.rollouts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.snapshot.load(state["tensors"])
        self.rollouts = state["rollouts"]


def build_old_policy(model: nn.Module, rl: RLConfig) -> OldPolicy | None:
    """nft's policy that draws, where it is not the one that learns at that moment."""
    return OldPolicy(model, rl.nft.old_decay) if rl.nft.old_decay > 0 or rl.updates_per_rollout > 1 else None
