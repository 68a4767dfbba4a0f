"""Draw samples and record the solver's trained steps. No gradients: its memory does not grow with rl.steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config import RLConfig, group_size
from f5_tts.data.prompt import prompt_lengths, span_mask
from f5_tts.model.cfm import CFM, padding_mask
from f5_tts.model.flow import time_grid
from f5_tts.rl.gaussian import log_prob
from f5_tts.rl.kernel import build_kernel, trained_steps
from f5_tts.types import Rollout, SpeechBatch


def draw_group(policy: CFM, batch: SpeechBatch, rl: RLConfig) -> Iterator[Rollout]:
    """`rl.group_size` samples of every prompt of `batch`, `rl.mini_repeat_count` of each in one forward pass.

    All samples of a group share text, prompt cut, window, and with rl.shared_noise the initial noise: what then
    differs between them is what the objective differentiates.
    """
    batch = with_prompts(batch, rl)
    times = time_grid(rl.steps, rl.sway_sampling_coef).to(batch.mel.device)
    trained = trained_steps(times, rl)
    noise = torch.randn_like(batch.mel)
    for _ in range(group_size(rl) // rl.mini_repeat_count):
        repeated = batch.repeat(rl.mini_repeat_count)
        shared = noise.repeat_interleave(rl.mini_repeat_count, dim=0)
        start = shared if rl.shared_noise else torch.randn_like(shared)
        yield draw_rollout(policy, repeated, start, times, trained, rl)


def with_prompts(batch: SpeechBatch, rl: RLConfig) -> SpeechBatch:
    """The batch with its prompt cut: a drawn fraction of each clip, or the prompt that the item brings."""
    if rl.prompt_frac_range is None:
        return batch
    low, high = rl.prompt_frac_range
    fractions = low + (high - low) * torch.rand(len(batch.lens))
    batch.prompt_lens.copy_(prompt_lengths(batch.lens, fractions.to(batch.lens.device), rl.prompt_length_mode))
    return batch


@torch.no_grad()
def draw_rollout(
    policy: CFM, batch: SpeechBatch, noise: Float[Tensor, "b n d"], times: Tensor, trained: list[int], rl: RLConfig
) -> Rollout:
    """Solve from `noise` to speech; the `trained` intervals draw their action, the others follow the mean (Euler)."""
    kernel, length = build_kernel(rl), batch.mel.shape[1]
    mask, target = padding_mask(batch.lens, length), span_mask(batch.prompt_lens, batch.lens, length)
    prompt = span_mask(torch.zeros_like(batch.prompt_lens), batch.prompt_lens, length)
    cond = batch.mel.masked_fill(~prompt[..., None], 0.0)
    x, states, actions, log_probs = noise, [], [], []
    for step, (time, next_time) in enumerate(pairwise(times)):
        velocity = policy(x, cond, batch.text, time, mask, cfg_strength=rl.cfg_strength)
        if step in trained:
            distribution = kernel.policy(velocity, x, time, next_time)
            action = distribution.draw()
            states.append(x)
            actions.append(action)
            log_probs.append(log_prob(action, distribution, target))
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
        states=torch.stack(states),
        actions=torch.stack(actions),
        old_log_prob=torch.stack(log_probs),
    )
