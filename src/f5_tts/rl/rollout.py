"""Draw samples and record the solver's trained steps. No gradients: its memory does not grow with rl.steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from f5_tts.config import RLConfig, group_size
from f5_tts.data.prompt import prompt_lengths, span_mask
from f5_tts.model.cfm import CFM, padding_mask, velocity_field
from f5_tts.model.flow import solve, time_grid
from f5_tts.rl.gaussian import log_prob
from f5_tts.rl.kernel import build_kernel, trained_steps
from f5_tts.types import Rollout, SpeechBatch


@torch.no_grad()
def draw_group(policy: CFM, batch: SpeechBatch, rl: RLConfig) -> Iterator[Rollout]:
    """`rl.group_size` samples of every prompt of `batch`, `rl.mini_repeat_count` of each in one forward pass.

    All samples of a group share text, prompt cut, window, and with rl.shared_noise the initial noise: what then
    differs between them is what the objective differentiates, and up to the window they are solved once a prompt.
    """
    batch = with_prompts(batch, rl)
    times = time_grid(rl.steps, rl.sway_sampling_coef).to(batch.mel.device)
    trained = trained_steps(times, rl)
    first = trained[0] if trained and rl.shared_noise else 0
    common = follow_mean(policy, batch, torch.randn_like(batch.mel), times[: first + 1], rl)
    for _ in range(group_size(rl) // rl.mini_repeat_count):
        start = common.repeat_interleave(rl.mini_repeat_count, dim=0)
        start = start if rl.shared_noise else torch.randn_like(start)
        repeated = batch.repeat(rl.mini_repeat_count)
        yield draw_rollout(policy, repeated, start, times[first:], [step - first for step in trained], rl)


def with_prompts(batch: SpeechBatch, rl: RLConfig) -> SpeechBatch:
    """The batch with its prompt cut: a drawn fraction of each clip, or the prompt that the item brings."""
    if rl.prompt_frac_range is None:
        return batch
    low, high = rl.prompt_frac_range
    fractions = (low + (high - low) * torch.rand(len(batch.lens))).to(batch.lens.device)
    return replace(batch, prompt_lens=prompt_lengths(batch.lens, fractions, rl.prompt_length_mode))


def prompt_mask(batch: SpeechBatch) -> Bool[Tensor, "b n"]:
    return span_mask(torch.zeros_like(batch.prompt_lens), batch.prompt_lens, batch.mel.shape[1])


def follow_mean(
    policy: CFM, batch: SpeechBatch, noise: Float[Tensor, "b n d"], times: Float[Tensor, " s"], rl: RLConfig
) -> Float[Tensor, "b n d"]:
    """The state at the last of `times`, by Euler's method along the mean velocity."""
    cond = batch.mel.masked_fill(~prompt_mask(batch)[..., None], 0.0)
    mask = padding_mask(batch.lens, batch.mel.shape[1])
    field = velocity_field(policy, cond, batch.text, mask, rl.cfg_strength)
    return solve(lambda x, t: field(x, t).mean, noise, times)


@torch.no_grad()
def draw_rollout(
    policy: CFM, batch: SpeechBatch, start: Float[Tensor, "b n d"], times: Tensor, trained: list[int], rl: RLConfig
) -> Rollout:
    """Solve from the state `start` at times[0] to speech: `trained` intervals draw their action, the others follow
    the mean."""
    length = batch.mel.shape[1]
    mask, target = padding_mask(batch.lens, length), span_mask(batch.prompt_lens, batch.lens, length)
    prompt = prompt_mask(batch)
    cond = batch.mel.masked_fill(~prompt[..., None], 0.0)
    field = velocity_field(policy, cond, batch.text, mask, rl.cfg_strength)
    x, states, actions, log_probs = start, [], [], []
    for step, (time, next_time) in enumerate(pairwise(times)):
        velocity = field(x, time)
        if step in trained:
            kernel = build_kernel(rl)
            distribution = kernel.policy(velocity, x, time, next_time)
            action = distribution.draw()
            states.append(x)
            actions.append(action)
            log_probs.append(log_prob(action, distribution))
            x = kernel.advance(action, x, time, next_time)
        else:
            x = x + (next_time - time) * velocity.mean
    return Rollout(
        batch=batch,
        cond=cond,
        target=target,
        mel=torch.where(prompt[..., None], batch.mel, x),
        times=times[trained],
        next_times=times[[step + 1 for step in trained]],
        states=stacked(states, x),
        actions=stacked(actions, x),
        old_log_prob=stacked(log_probs, x[..., 0]),
    )


def stacked(parts: list[Tensor], like: Tensor) -> Tensor:
    """The parts as one tensor; of no parts an empty one, its other axes those of `like`."""
    return torch.stack(parts) if parts else like.new_zeros(0, *like.shape)
