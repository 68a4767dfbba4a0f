"""Direct reward fine-tuning (draft): gradients of differentiable rewards through the last solver steps.

DRaFT (Clark et al. 2023, arXiv 2309.17400) differentiates the last K steps, ReFL (Xu et al. 2023, arXiv 2304.05977) one
step from a random time that predicts the finished sample. Samples are not compared, so a group may be one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config.schema import RLConfig, group_size
from f5_tts.data.masking import span_mask
from f5_tts.model.cfm import velocity_field
from f5_tts.model.flow import sway
from f5_tts.model.heads import VelocityModel
from f5_tts.rl.gather import Ranks, gather_over_ranks
from f5_tts.rl.metrics import reward_loss_metrics
from f5_tts.rl.policy_gradient import Models, Noised, ask_at_times, reference_distance, velocity_at
from f5_tts.rl.rollout import (
    cut_prompts,
    drawing_model,
    jitter_durations,
    pad_for_jitter,
    prompt_mask,
    rollout_grid,
    stack_steps,
)
from f5_tts.types import ExperienceBatch, LossOutput, Rollout, Scorer, SpeechBatch, padding_mask

Step = Callable[[Tensor, int], Tensor]  # (state, index of a recorded step) -> state after it


# --- rollouts ---


def draw_last_steps(policy: VelocityModel, batch: SpeechBatch, rl: RLConfig) -> Iterator[Rollout]:
    """Draw the samples of a batch without gradients; record the states at which the differentiated steps start.

    Each sample has its own noise. With rl.draft.mode=refl one step of the grid, chosen at random for each forward pass,
    goes straight to t = 1.
    """
    batch = pad_for_jitter(cut_prompts(batch, rl), rl)
    for _ in range(group_size(rl) // rl.mini_repeat_count):
        repeated = jitter_durations(batch.repeat(rl.mini_repeat_count), rl)
        times, num_recorded = differentiated_grid(rl)
        yield solve_recorded(policy, repeated, times.to(batch.mel.device), num_recorded, rl)


def draw_beside(policy: VelocityModel, batch: SpeechBatch, rl: RLConfig) -> Iterator[Rollout]:
    """Draw one sample for each prompt, as `draw_last_steps` does: rl.draft.weight beside another algorithm."""
    return draw_last_steps(policy, batch, replace(rl, group_size=1, mini_repeat_count=1))


def differentiated_grid(rl: RLConfig) -> tuple[Float[Tensor, " s"], int]:
    """Return the time grid of a rollout, and how many of its last steps are differentiated."""
    times = rollout_grid(rl)
    if rl.draft.mode == "draft":
        return times, rl.draft.last_steps
    first = int(torch.randint(rl.steps, ()))
    return torch.cat([times[: first + 1], times[-1:]]), 1


@torch.no_grad()
def solve_recorded(
    policy: VelocityModel, batch: SpeechBatch, times: Float[Tensor, " s"], num_recorded: int, rl: RLConfig
) -> Rollout:
    """Solve from noise to speech along the mean velocity; record the states before the last `num_recorded` steps.

    rl.rollout_precision is that of the steps before them.
    """
    prompt, length = prompt_mask(batch), batch.mel.shape[1]
    cond = batch.mel.masked_fill(~prompt[..., None], 0.0)
    inputs = cond, batch.text, padding_mask(batch.lens, length), rl.cfg_strength
    fields = velocity_field(drawing_model(policy, rl), *inputs), velocity_field(policy, *inputs)
    first_recorded, states = len(times) - 1 - num_recorded, [torch.randn_like(batch.mel)]
    for step, (time, next_time) in enumerate(pairwise(times)):
        field = fields[step >= first_recorded]
        states.append(states[-1] + (next_time - time) * field(states[-1], time).mean)
    no_steps = states[-1].new_zeros(0, *states[-1].shape)
    return Rollout(
        batch=batch,
        cond=cond,
        target_mask=span_mask(batch.prompt_lens, batch.lens, length),
        mel=torch.where(prompt[..., None], batch.mel, states[-1]),
        times=times[-num_recorded - 1 : -1],
        next_times=times[-num_recorded:],
        states=stack_steps(states[-num_recorded - 1 : -1], states[-1]),
        actions=no_steps,
        means=no_steps,
        stds=no_steps,
    )


# --- gradients of rewards ---


def differentiate_rewards(
    rollout_stream: Iterable[Rollout], scorer: Scorer, ranks: Ranks, *, alone: bool
) -> list[ExperienceBatch]:
    """Draw samples and compute the gradients of their rewards; not `alone` where another algorithm compares samples."""
    started = perf_counter()
    with ranks.raise_on_all_ranks():
        rollouts = list(rollout_stream)
        drawn_at = perf_counter()
        differentiated = [scorer.differentiate(rollout) for rollout in rollouts]
    seconds = {"time/rollout": drawn_at - started, "time/reward": perf_counter() - drawn_at}
    gathered = gather_over_ranks(rollouts, [rewards for rewards, _ in differentiated], ranks)
    metrics = reward_loss_metrics(gathered, alone=alone) | (seconds if alone else {})
    return [
        ExperienceBatch(
            rollout=rollout,
            advantages=torch.zeros(len(rollout.mel), device=rollout.mel.device),
            mel_gradient=gradient,
            loss_weight=len(rollout.mel) * gathered.sample_weight,
            metrics=metrics,
            rewards=rewards,
        )
        for rollout, (rewards, gradient) in zip(rollouts, differentiated, strict=True)
    ]


# --- loss ---


def draft_loss(models: Models, batch: ExperienceBatch, step: int, rl: RLConfig) -> LossOutput:
    """Compute the mean reward loss of the update, with its gradient through all recorded steps.

    The rewards have been differentiated already: with g the gradient of a sample's reward loss L with respect to its
    finished log-mel x1, the loss is mean_b [ sg(L) + <g, x1 - sg(x1)> ]. The backward pass computes each step again, so
    that memory holds one step at a time.
    """
    rollout, gradient = batch.rollout, batch.mel_gradient
    assert gradient is not None, "draft needs the gradients of rewards"

    def solver_step(state: Tensor, index: int) -> Tensor:
        time, next_time = rollout.times[index], rollout.next_times[index]
        return state + (next_time - time) * velocity_at(models.policy, rollout, state, time, rl).mean.to(state)

    trigger = rollout.mel.new_zeros((), requires_grad=True)
    replayed = ReplayedSteps.apply(trigger, rollout.mel, rollout.states, solver_step)
    assert isinstance(replayed, Tensor)
    loss = batch.metrics["draft/loss"] + (gradient * (replayed - rollout.mel)).sum() / len(gradient)
    return LossOutput(loss=loss, metrics={})


class ReplayedSteps(torch.autograd.Function):
    """Finished samples of recorded steps, whose backward pass computes the steps again, from the last to the first."""

    @staticmethod
    def forward(ctx: Any, trigger: Tensor, finished: Tensor, states: Float[Tensor, "s b n d"], step: Step) -> Tensor:
        """Return the finished samples; `trigger` is a scalar with a gradient, so that the backward pass is called."""
        ctx.states, ctx.step = states, step
        return finished.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Add the gradients of the policy's parameters; none is returned for the inputs."""
        (gradient,) = gradients
        for index in reversed(range(len(ctx.states))):
            state = ctx.states[index].detach().requires_grad_()
            with torch.enable_grad():
                next_state = ctx.step(state, index)
            torch.autograd.backward(next_state, gradient)
            assert state.grad is not None, "a step depends on its state"
            gradient = state.grad
        return torch.zeros_like(gradient[0, 0, 0]), None, None, None


def velocity_anchor(models: Models, batch: ExperienceBatch, step: int, rl: RLConfig) -> LossOutput:
    """Compute β mean_D (v - v_ref)² at one random time of each finished sample, with β = rl.kl_weight."""
    kl = reference_distance(models, batch, models.answer or ask_in_strata(models, batch, step, rl), rl)
    return LossOutput(loss=rl.kl_weight * kl, metrics={"loss/kl": kl.detach()})


def ask_in_strata(models: Models, batch: ExperienceBatch, step: int, rl: RLConfig) -> Noised:
    """Draw a time and noise for each finished sample, and compute the reference's velocity there.

    The times are as dense as the solver's steps and stratified over the samples.
    """
    num, device = len(batch.rollout.mel), batch.rollout.mel.device
    quantile = (torch.randperm(num, device=device) + torch.rand(num, device=device)) / num
    time = quantile if rl.sway_sampling_coef is None else sway(quantile, rl.sway_sampling_coef)
    return ask_at_times(models, batch.rollout, time, rl)
