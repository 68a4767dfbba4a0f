"""Rollouts: samples of the policy, with the trained solver steps recorded; memory does not grow with rl.steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from math import ceil
from time import perf_counter
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from f5_tts.config.schema import RLConfig, group_size
from f5_tts.data.masking import prompt_lengths, span_mask
from f5_tts.model.cfm import velocity_field
from f5_tts.model.flow import solve, time_grid
from f5_tts.model.heads import VelocityModel
from f5_tts.model.precision import in_bf16
from f5_tts.rl.gaussian import Gaussian
from f5_tts.rl.kernel import build_kernel, sample_trained_steps
from f5_tts.types import RewardBatch, Rollout, ScoreFn, SpeechBatch, padding_mask

ChooseSteps: TypeAlias = Callable[[Tensor, RLConfig], list[int]]  # (time grid, rl) -> indices of the trained steps


@torch.no_grad()
def draw_group(
    policy: VelocityModel, batch: SpeechBatch, rl: RLConfig, choose_steps: ChooseSteps = sample_trained_steps
) -> Iterator[Rollout]:
    """Draw a group of samples per prompt, `rl.mini_repeat_count` of each per forward pass.

    All samples of a group share text, prompt cut, window and, with rl.shared_noise, the initial noise. The solver steps
    before the window are then the same for the whole group and are computed once per prompt. With rl.duration_jitter
    the samples also differ in length, and each is solved separately.
    """
    batch = pad_for_jitter(cut_prompts(batch, rl), rl)
    times = rollout_grid(rl).to(batch.mel.device)
    trained_indices = choose_steps(times, rl)
    first = trained_indices[0] if trained_indices and rl.shared_noise and not rl.duration_jitter else 0
    shared_start = solve_mean(policy, batch, torch.randn_like(batch.mel), times[: first + 1], rl)
    for _ in range(group_size(rl) // rl.mini_repeat_count):
        start = shared_start.repeat_interleave(rl.mini_repeat_count, dim=0)
        start = start if rl.shared_noise else torch.randn_like(start)
        repeated = jitter_durations(batch.repeat(rl.mini_repeat_count), rl)
        yield draw_rollout(policy, repeated, start, times[first:], [step - first for step in trained_indices], rl)


def draw_finished(policy: VelocityModel, batch: SpeechBatch, rl: RLConfig) -> Iterator[Rollout]:
    """Draw a group as `draw_group` does, for losses of finished samples, which need no record of a step.

    With rl.shared_noise the samples differ by the noise of the steps in rl.window alone, else by their initial noise
    alone.
    """
    for rollout in draw_group(policy, batch, rl, sample_trained_steps if rl.shared_noise else lambda times, rl: []):
        yield without_steps(rollout)


def without_steps(rollout: Rollout) -> Rollout:
    """Return a rollout without its record of trained steps, whose memory is then free."""
    names = ("times", "next_times", "states", "actions", "means", "stds")
    return replace(rollout, **{name: getattr(rollout, name)[:0].clone() for name in names})


def drawing_model(policy: VelocityModel, rl: RLConfig) -> VelocityModel:
    """Return the policy in the precision of steps that no gradient goes through."""
    return in_bf16(policy) if rl.rollout_precision == "bf16" else policy


def rollout_grid(rl: RLConfig) -> Float[Tensor, " s"]:
    """Return the time grid of a rollout's solver: rl.steps intervals in [0, 1]."""
    return time_grid(rl.steps, rl.sway_sampling_coef, rl.epss)


def cut_prompts(batch: SpeechBatch, rl: RLConfig) -> SpeechBatch:
    """Cut a prompt of random length from each clip; with rl.prompt_frac_range=null keep the items' own prompts."""
    if rl.prompt_frac_range is None:
        return batch
    low, high = rl.prompt_frac_range
    fractions, positions = torch.rand(2, len(batch.lens)).to(batch.lens.device)
    prompt_lens = prompt_lengths(batch.lens, low + (high - low) * fractions, positions, rl.prompt_length_mode)
    return replace(batch, prompt_lens=prompt_lens if high == 0 else prompt_lens.clamp(min=1))


def pad_for_jitter(batch: SpeechBatch, rl: RLConfig) -> SpeechBatch:
    """Pad the batch at the end for samples that rl.duration_jitter makes longer."""
    extra_frames = ceil(rl.duration_jitter * batch.mel.shape[1])
    return replace(batch, mel=F.pad(batch.mel, (0, 0, 0, extra_frames))) if extra_frames else batch


def jitter_durations(batch: SpeechBatch, rl: RLConfig) -> SpeechBatch:
    """Lengthen or shorten each sample by a random share of up to ±rl.duration_jitter; its prompt is kept.

    The duration is then part of what a group compares, although no weight of the policy decides it: the policy sees
    speech at other rates, and samples of a group are compared across rates.
    """
    if not rl.duration_jitter:
        return batch
    changes = rl.duration_jitter * (2 * torch.rand(len(batch.lens)).to(batch.lens.device) - 1)
    lens = (batch.lens * (1 + changes)).round().long()
    return replace(batch, lens=lens.clamp(max=batch.mel.shape[1]).maximum(batch.prompt_lens + 1))


def prompt_mask(batch: SpeechBatch) -> Bool[Tensor, "b n"]:
    """Return a mask that is True on the prompt frames."""
    return span_mask(torch.zeros_like(batch.prompt_lens), batch.prompt_lens, batch.mel.shape[1])


def solve_mean(
    policy: VelocityModel, batch: SpeechBatch, noise: Float[Tensor, "b n d"], times: Float[Tensor, " s"], rl: RLConfig
) -> Float[Tensor, "b n d"]:
    """Solve to the last of `times` by Euler's method along the mean velocity, and return the state there."""
    cond = batch.mel.masked_fill(~prompt_mask(batch)[..., None], 0.0)
    mask = padding_mask(batch.lens, batch.mel.shape[1])
    field = velocity_field(drawing_model(policy, rl), cond, batch.text, mask, rl.cfg_strength)
    return solve(lambda x, t: field(x, t).mean, noise, times)


@torch.no_grad()
def draw_rollout(
    policy: VelocityModel,
    batch: SpeechBatch,
    start: Float[Tensor, "b n d"],
    times: Float[Tensor, " s"],
    trained_indices: list[int],
    rl: RLConfig,
) -> Rollout:
    """Solve from the state `start` at times[0] to speech, and record the trained steps.

    Trained intervals draw their action; all others follow the mean velocity.
    """
    length = batch.mel.shape[1]
    mask, target = padding_mask(batch.lens, length), span_mask(batch.prompt_lens, batch.lens, length)
    prompt = prompt_mask(batch)
    cond = batch.mel.masked_fill(~prompt[..., None], 0.0)
    field = velocity_field(drawing_model(policy, rl), cond, batch.text, mask, rl.cfg_strength)
    kernel = build_kernel(rl)
    x, states, actions = start, [], []
    distributions: list[Gaussian] = []
    for step, (time, next_time) in enumerate(pairwise(times)):
        velocity = field(x, time)
        if step in trained_indices:
            distributions.append(kernel.policy(velocity, x, time, next_time))
            states.append(x)
            actions.append(distributions[-1].sample(rl.window.noise_block))
            x = kernel.step(actions[-1], x, time, next_time)
        else:
            x = x + (next_time - time) * velocity.mean
    return Rollout(
        batch=batch,
        cond=cond,
        target_mask=target,
        mel=torch.where(prompt[..., None], batch.mel, x),
        times=times[trained_indices],
        next_times=times[[step + 1 for step in trained_indices]],
        states=stack_steps(states, x),
        actions=stack_steps(actions, x),
        means=stack_steps([distribution.mean for distribution in distributions], x),
        stds=stack_steps([distribution.std for distribution in distributions], x),
    )


def stack_steps(tensors: list[Tensor], like: Tensor) -> Tensor:
    """Stack the recorded tensors over solver steps; scalars become 1 1 1.

    An empty list gives an empty tensor shaped like a batch.
    """
    if not tensors:
        return like.new_zeros(0, *like.shape)
    return torch.stack([tensor if tensor.ndim else tensor.view(1, 1, 1) for tensor in tensors])


def rollout_and_score(
    rollout_stream: Iterable[Rollout], scorer: ScoreFn, overlap: bool
) -> tuple[list[Rollout], list[RewardBatch], dict[str, float]]:
    """Collect the rollouts and score them; return both, and the seconds that each took.

    With rl.rewards.overlap, one rollout is scored in a thread while the next is drawn. `time/reward` is then the time
    that scoring takes after the last rollout is drawn.
    """
    started, rollouts, futures = perf_counter(), [], []
    executor = ThreadPoolExecutor(1)
    try:
        for rollout in rollout_stream:
            rollouts.append(rollout)
            if overlap:
                futures.append(executor.submit(scorer, rollout))
        drawn_at = perf_counter()
        rewards = [future.result() for future in futures] if overlap else [scorer(rollout) for rollout in rollouts]
    finally:  # after an error or a second Ctrl-C nothing waits for a reward that is still being asked
        executor.shutdown(wait=False, cancel_futures=True)
    return rollouts, rewards, {"time/rollout": drawn_at - started, "time/reward": perf_counter() - drawn_at}
