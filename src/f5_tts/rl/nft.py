"""GRPOBatch -> loss of nft: what scored above its group is approached, what scored below is left, on fresh noise.

It needs finished samples alone: no trained steps, no densities, any solver.
"""

from __future__ import annotations

import torch
from torch import Tensor

from f5_tts.config import RLConfig
from f5_tts.model.cfm import CFM
from f5_tts.model.flow import interpolate, sway
from f5_tts.rl.advantage import as_rows
from f5_tts.rl.gaussian import entry_mean
from f5_tts.rl.objective import velocity_at
from f5_tts.types import GRPOBatch, LossOutput, Rollout


def nft_objective(policy: CFM, reference: CFM | None, batch: GRPOBatch, step: int, rl: RLConfig) -> LossOutput:
    """mean_b [ (1-t) mean_D(A (v - u)²) / mean_D|v - u| + β mean_D (v - v_ref)² ] at one fresh time for each prompt.

    A finished sample x_1 is noised anew, x_t = (1-t) ε + t x_1, and u = x_1 - ε is the velocity that leads to it. This
    is the gradient of diffusion NFT (Zheng et al. 2025, arXiv 2509.16117),
    A_max/b ( r ‖x̂1(v+) - x1‖² + (1-r) ‖x̂1(v-) - x1‖² ) / w with v± = v_old ± b (v - v_old), r = (1 + A / A_max) / 2,
    w = mean|x̂1 - x1|, where v_old is the policy that drew, just before its update: then b and A_max cancel.
    `step`, from 0, says in which of rl.nft.num_times parts of [0, 1] the times lie.
    """
    rollout = batch.rollout
    time, noise = fresh_noise(rollout, step, rl)
    state, aim = interpolate(noise, rollout.mel, time), rollout.mel - noise
    velocity = velocity_at(policy, rollout, state, time, rl).mean.float()
    error = velocity - aim
    scale = entry_mean(error.detach().abs(), rollout.target).clamp(min=1e-5) / (1 - time)
    advantages = as_rows(batch.advantages)[..., None]
    pull = (entry_mean(advantages * error.square(), rollout.target) / scale).mean()
    kl = pull.new_zeros(())
    if reference is not None:
        with torch.no_grad():
            anchor = velocity_at(reference, rollout, state, time, rl).mean.float()
        kl = entry_mean((velocity - anchor).square(), rollout.target).mean()
    loss = pull + rl.kl_weight * kl
    seen = {"loss": loss, "loss/kl": kl, "loss/pro_adv": -pull}
    return LossOutput(loss=loss, metrics={name: value.item() for name, value in seen.items()})


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
