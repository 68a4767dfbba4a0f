"""The objective of F5R-TTS (Sun et al. 2025, arXiv 2504.02407) as its published code computes it, for comparison alone.

Its gradient is wrong, gaussian_grpo's is right: an action carries the gradient of the policy that drew it, which
cancels the pull on the mean; with guidance, actions are scored by a distribution they were not drawn from, and the
pull points the wrong way; it weighs by the density, not its logarithm. The gradient runs through the whole chain of
states, so that memory grows with rl.steps. As published it goes with rl.advantage=grpo, rl.train_sigma=true and
rl.shared_noise=false.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config.schema import RLConfig, group_size
from f5_tts.data.masking import span_mask
from f5_tts.model.cfm import padding_mask
from f5_tts.model.flow import time_grid
from f5_tts.model.heads import Velocity, VelocityModel
from f5_tts.rl.advantage import as_rows
from f5_tts.rl.gaussian import Gaussian
from f5_tts.rl.policy_gradient import Models
from f5_tts.rl.rollout import prompt_mask, stacked, with_lengths, with_prompts, with_room
from f5_tts.types import GRPOBatch, LossOutput, Rollout, SpeechBatch

ALWAYS_KEPT = 2  # the first so many steps are in the gradient whatever rl.skip_grad_prob


# --- drawing ---


def draw_with_gradients(policy: VelocityModel, batch: SpeechBatch, rl: RLConfig) -> Iterator[Rollout]:
    """A group of samples of every prompt, `rl.mini_repeat_count` of each in one pass; their gradients are kept."""
    batch, times = with_room(with_prompts(batch, rl), rl), kept_times(rl).to(batch.mel.device)
    common = torch.randn_like(batch.mel).repeat_interleave(rl.mini_repeat_count, dim=0)
    for _ in range(group_size(rl) // rl.mini_repeat_count):
        repeated = with_lengths(batch.repeat(rl.mini_repeat_count), rl)
        start = common if rl.shared_noise else torch.randn_like(common)
        yield draw(policy, repeated, start, fresh_noise(start, rl), times, rl)


def rollout_times(rl: RLConfig) -> Float[Tensor, " s"]:
    """rl.steps grid points, as the published code counts."""
    return time_grid(rl.steps - 1, rl.sway_sampling_coef, rl.epss)


def kept_times(rl: RLConfig) -> Float[Tensor, " k"]:
    """Where the steps start that stay in the gradient: each but the first two is left out with rl.skip_grad_prob, and
    of the rest rl.max_grad_steps are chosen at random."""
    starts = rollout_times(rl)[:-1]
    is_kept = (torch.rand(len(starts)) >= rl.skip_grad_prob) | (torch.arange(len(starts)) < ALWAYS_KEPT)
    kept = starts[is_kept]
    return kept[torch.randperm(len(kept))[: rl.max_grad_steps].sort().values]


def fresh_noise(start: Float[Tensor, "b n d"], rl: RLConfig) -> Float[Tensor, "s h b n d"]:
    """For every interval the conditional half's, and with guidance the unconditional half's."""
    return torch.randn(rl.steps - 1, 2 if rl.cfg_strength > 0 else 1, *start.shape, device=start.device)


def draw(
    policy: VelocityModel,
    batch: SpeechBatch,
    start: Float[Tensor, "b n d"],
    noise: Float[Tensor, "s h b n d"],
    kept: Float[Tensor, " k"],
    rl: RLConfig,
) -> Rollout:
    """Solve from noise to speech with every velocity drawn: a = a_c + w (a_c - a_u), a_c ~ N(μ_c, σ_c²), a_u likewise.

    Steps that start at `kept` times are recorded: a with the μ_c and σ_c that it is compared with, all with their
    gradients, which run through the chain of states, back to the last step that was left out.
    """
    length, prompt = batch.mel.shape[1], prompt_mask(batch)
    cond = batch.mel.masked_fill(~prompt[..., None], 0.0)
    x, states, actions = start, [], []
    drawn_from: list[Gaussian] = []
    times = rollout_times(rl).to(start.device)
    for (time, next_time), draws in zip(pairwise(times), noise, strict=True):
        is_kept = bool((kept == time).any())
        with torch.set_grad_enabled(is_kept and torch.is_grad_enabled()):
            parts = halves(policy, x, cond, batch, time, rl)
            action = guided([part.mean + part.std * draw for part, draw in zip(parts, draws, strict=True)], rl)
            next_x = x + (next_time - time) * action
        if is_kept:
            states.append(x.detach())
            actions.append(action)
            drawn_from.append(parts[0])
        x = next_x
    return Rollout(
        batch=batch,
        cond=cond,
        target=span_mask(batch.prompt_lens, batch.lens, length),
        mel=torch.where(prompt[..., None], batch.mel, x.detach()),
        times=kept,
        next_times=times[1:][torch.isin(times[:-1], kept)],
        states=stacked(states, x),
        actions=stacked(actions, x),
        means=stacked([drawn.mean for drawn in drawn_from], x),
        stds=stacked([drawn.std for drawn in drawn_from], x),
    )


def halves(
    policy: VelocityModel, x: Tensor, cond: Tensor, batch: SpeechBatch, time: Tensor, rl: RLConfig
) -> list[Gaussian]:
    """The conditional velocity and, with guidance, the one that sees neither prompt nor text."""
    mask, yes = padding_mask(batch.lens, x.shape[1]), torch.ones_like(batch.lens, dtype=torch.bool)
    blanks = [{}, {"drop_audio": yes, "drop_text": yes}] if rl.cfg_strength > 0 else [{}]
    return [distribution(policy(x, cond, batch.text, time, mask, **blank), rl) for blank in blanks]


def distribution(velocity: Velocity, rl: RLConfig) -> Gaussian:
    assert velocity.ln_sigma is not None, "f5r draws from a Gaussian head"
    std = velocity.ln_sigma.float().exp()
    return Gaussian(velocity.mean.float(), std if rl.train_sigma else std.detach())


def guided(actions: list[Tensor], rl: RLConfig) -> Float[Tensor, "b n d"]:
    """a_c, or a_c + w (a_c - a_u)."""
    given, *free = actions
    return given + sum(rl.cfg_strength * (given - (a if rl.cfg_grad_uncond else a.detach())) for a in free)


# --- the objective ---


def f5r_objective(models: Models, batch: GRPOBatch, step: int, rl: RLConfig) -> LossOutput:
    """-mean(A p(a)) + β mean(Σ_k D_k), over all kept steps k at once.

    p is averaged over steps and all target entries of the batch; D over all entries of it, prompt and padding
    included, between what the policy said on its way and what the reference says on a way of its own: it is not zero
    where both are the same.
    """
    rollout, now = batch.rollout, Gaussian(batch.rollout.means, batch.rollout.stds)
    weighted = as_rows(batch.advantages)[..., None] * density(rollout.actions, now, rl.density_eps)
    gain = weighted[:, rollout.target].mean()
    kl = gain.new_zeros(())
    if models.reference is not None:
        kl = divergence(now, way_of(models.reference, rollout, rl), rl.kl_eps).sum(dim=0).mean()
    loss = -gain + rl.kl_weight * kl
    std = now.std[:, rollout.target]
    seen = {"loss": loss, "loss/kl": kl, "loss/pro_adv": gain}
    seen |= {"policy/sigma_mean": std.mean(), "policy/sigma_min": std.min(), "policy/sigma_max": std.max()}
    return LossOutput(loss=loss, metrics={name: value.item() for name, value in seen.items()})


@torch.no_grad()
def way_of(reference: VelocityModel, rollout: Rollout, rl: RLConfig) -> Gaussian:
    """What the reference draws from at the same times, from noise of its own."""
    start = torch.randn_like(rollout.mel)
    drawn = draw(reference, rollout.batch, start, fresh_noise(start, rl), rollout.times, rl)
    return Gaussian(drawn.means, drawn.stds)


def density(action: Float[Tensor, "s b n d"], policy: Gaussian, eps: float) -> Float[Tensor, "s b n d"]:
    """exp(-(a - μ)² / (2 (σ² + ε))) / (σ + ε), the constant √2π left out."""
    variance = policy.std.square() + eps
    return (-(action - policy.mean).square() / (2 * variance)).exp() / (policy.std + eps)


def divergence(policy: Gaussian, reference: Gaussian, eps: float) -> Float[Tensor, "s b n d"]:
    """ln(σ_r/σ) + (σ² + (μ - μ_r)²) / (2 (σ_r² + ε)): the KL divergence without its -1/2."""
    spread = policy.std.square() + (policy.mean - reference.mean).square()
    return (reference.std / policy.std).log() + spread / (2 * (reference.std.square() + eps))
