"""Draw samples and record the solver's trained steps. No gradients: its memory does not grow with rl.steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from math import ceil
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from f5_tts.config.schema import RLConfig, group_size
from f5_tts.data.masking import prompt_lengths, span_mask
from f5_tts.model.cfm import padding_mask, velocity_field
from f5_tts.model.flow import solve, time_grid
from f5_tts.model.heads import VelocityModel
from f5_tts.rl.gaussian import Gaussian
from f5_tts.rl.kernel import build_kernel, trained_steps
from f5_tts.types import Rollout, SpeechBatch

ChooseSteps: TypeAlias = Callable[[Tensor, RLConfig], list[int]]  # of a grid of times, the steps to be trained


@torch.no_grad()
def draw_group(
    policy: VelocityModel, batch: SpeechBatch, rl: RLConfig, choose_steps: ChooseSteps = trained_steps
) -> Iterator[Rollout]:
    """A group of samples of every prompt of `batch`, `rl.mini_repeat_count` of each in one forward pass.

    All samples of a group share text, prompt cut, window, and with rl.shared_noise the initial noise: what then
    differs between them is what the objective differentiates, and up to the window they are solved once a prompt.
    (With rl.duration_jitter they differ in length as well, and each is solved by itself.)
    """
    batch = with_room(with_prompts(batch, rl), rl)
    times = rollout_grid(rl).to(batch.mel.device)
    trained = choose_steps(times, rl)
    first = trained[0] if trained and rl.shared_noise and not rl.duration_jitter else 0
    common = follow_mean(policy, batch, torch.randn_like(batch.mel), times[: first + 1], rl)
    for _ in range(group_size(rl) // rl.mini_repeat_count):
        start = common.repeat_interleave(rl.mini_repeat_count, dim=0)
        start = start if rl.shared_noise else torch.randn_like(start)
        repeated = with_lengths(batch.repeat(rl.mini_repeat_count), rl)
        yield draw_rollout(policy, repeated, start, times[first:], [step - first for step in trained], rl)


def draw_finished(policy: VelocityModel, batch: SpeechBatch, rl: RLConfig) -> Iterator[Rollout]:
    """Draw a group as `draw_group` does and record no step, for algorithms that learn from finished samples alone."""
    return draw_group(policy, batch, rl, lambda times, rl: [])


def rollout_grid(rl: RLConfig) -> Float[Tensor, " s"]:
    """The times at which the solver of a rollout stops: rl.steps intervals."""
    return time_grid(rl.steps, rl.sway_sampling_coef, rl.epss)


def with_prompts(batch: SpeechBatch, rl: RLConfig) -> SpeechBatch:
    """The batch with its prompt cut: a drawn part of each clip, or the prompt that the item brings."""
    if rl.prompt_frac_range is None:
        return batch
    low, high = rl.prompt_frac_range
    fractions, places = torch.rand(2, len(batch.lens)).to(batch.lens.device)
    cut = prompt_lengths(batch.lens, low + (high - low) * fractions, places, rl.prompt_length_mode)
    return replace(batch, prompt_lens=cut if high == 0 else cut.clamp(min=1))


def with_room(batch: SpeechBatch, rl: RLConfig) -> SpeechBatch:
    """Padding at the end for samples that rl.duration_jitter makes longer."""
    more = ceil(rl.duration_jitter * batch.mel.shape[1])
    return replace(batch, mel=F.pad(batch.mel, (0, 0, 0, more))) if more else batch


def with_lengths(batch: SpeechBatch, rl: RLConfig) -> SpeechBatch:
    """Each sample longer or shorter by a drawn share, up to rl.duration_jitter; its prompt stays as it is.

    How long a sample takes is then an action too, though one that no weight decides: samples in a hurry or with time to
    kill show the policy how to speak at other rates, and group members are compared across them.
    """
    if not rl.duration_jitter:
        return batch
    shares = rl.duration_jitter * (2 * torch.rand(len(batch.lens)).to(batch.lens.device) - 1)
    lens = (batch.lens * (1 + shares)).round().long()
    return replace(batch, lens=lens.clamp(max=batch.mel.shape[1]).maximum(batch.prompt_lens + 1))


def prompt_mask(batch: SpeechBatch) -> Bool[Tensor, "b n"]:
    return span_mask(torch.zeros_like(batch.prompt_lens), batch.prompt_lens, batch.mel.shape[1])


def follow_mean(
    policy: VelocityModel, batch: SpeechBatch, noise: Float[Tensor, "b n d"], times: Float[Tensor, " s"], rl: RLConfig
) -> Float[Tensor, "b n d"]:
    """The state at the last of `times`, by Euler's method along the mean velocity."""
    cond = batch.mel.masked_fill(~prompt_mask(batch)[..., None], 0.0)
    mask = padding_mask(batch.lens, batch.mel.shape[1])
    field = velocity_field(policy, cond, batch.text, mask, rl.cfg_strength)
    return solve(lambda x, t: field(x, t).mean, noise, times)


@torch.no_grad()
def draw_rollout(
    policy: VelocityModel,
    batch: SpeechBatch,
    start: Float[Tensor, "b n d"],
    times: Float[Tensor, " s"],
    trained: list[int],
    rl: RLConfig,
) -> Rollout:
    """Solve from the state `start` at times[0] to speech: `trained` intervals draw their action, the others follow
    the mean."""
    length = batch.mel.shape[1]
    mask, target = padding_mask(batch.lens, length), span_mask(batch.prompt_lens, batch.lens, length)
    prompt = prompt_mask(batch)
    cond = batch.mel.masked_fill(~prompt[..., None], 0.0)
    field, kernel = velocity_field(policy, cond, batch.text, mask, rl.cfg_strength), build_kernel(rl)
    x, states, actions = start, [], []
    drawn_from: list[Gaussian] = []
    for step, (time, next_time) in enumerate(pairwise(times)):
        velocity = field(x, time)
        if step in trained:
            drawn_from.append(kernel.policy(velocity, x, time, next_time))
            states.append(x)
            actions.append(drawn_from[-1].draw())
            x = kernel.advance(actions[-1], x, time, next_time)
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
        means=stacked([drawn.mean for drawn in drawn_from], x),
        stds=stacked([drawn.std for drawn in drawn_from], x),
    )


def stacked(parts: list[Tensor], like: Tensor) -> Tensor:
    """The parts as one tensor, with axes for b n d also where they are one number; of no parts an empty one."""
    if not parts:
        return like.new_zeros(0, *like.shape)
    return torch.stack([part if part.ndim else part.view(1, 1, 1) for part in parts])
