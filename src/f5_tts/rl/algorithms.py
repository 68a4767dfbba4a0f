"""Algorithms of stage 2: sampling, loss terms and requirements, one entry per value of `rl.algorithm`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from f5_tts.config.schema import RLConfig
from f5_tts.model.heads import VelocityModel
from f5_tts.plugins import import_attribute, is_module_attribute
from f5_tts.rl.draft import ask_in_strata, draft_loss, draw_last_steps, velocity_anchor
from f5_tts.rl.f5r import ask_on_its_path, draw_with_gradients, f5r_loss
from f5_tts.rl.metrics import noise_level
from f5_tts.rl.nft import EmaPolicy, ask_at_fresh_times, build_old_policy, nft_loss
from f5_tts.rl.policy_gradient import Models, anchor_loss, ask_anywhere, ask_at_step, grpo_loss
from f5_tts.rl.rollout import draw_finished, draw_group
from f5_tts.types import ExperienceBatch, LossOutput, Rollout, SpeechBatch

LossFn: TypeAlias = Callable[[Models, ExperienceBatch, int, RLConfig], LossOutput]
LossTerm: TypeAlias = tuple[LossFn, int, float]  # objective, step and weight of a term
DrawFn: TypeAlias = Callable[[VelocityModel, SpeechBatch, RLConfig], Iterator[Rollout]]


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """How stage 2 draws samples and computes their loss; the defaults suit losses of finished samples.

    Args:
        loss_terms: lists the terms of a rollout's loss from (rl, rollout, has_reference). Memory holds the
            activations of one term at a time.
        draw: draws a group of samples for each prompt of a batch, one forward pass after the other.
        needs_trained_head: whether it draws from a trained Gaussian head, whose σ rl.train_sigma may then train.
        uses_window: whether it draws the solver steps of rl.window with noise.
        recorded_arrays: number of arrays of a sample's size that a rollout holds for its trained steps.
        uses_reward_gradients: whether it learns from the gradients of rewards, in place of their scores within groups.
        reference_arrays: number of arrays of a sample's size that all answers of the reference hold, where it is asked
            before the first pass of the policy (rl.ref_model_device).
        anchor_key: the key of `rl` with the weight of its anchor, which rl.anchor_every makes 0 in some updates.
        build_old_policy: builds the policy that draws, where that is not the trained one.
        rollout_metrics: computes metrics of an update's rollouts.
        warning: printed at the start of a run.
    """

    loss_terms: Callable[[RLConfig, Rollout, bool], list[LossTerm]]
    draw: DrawFn = draw_finished
    needs_trained_head: bool = False
    uses_window: Callable[[RLConfig], bool] = lambda rl: rl.shared_noise  # see draw_finished
    uses_reward_gradients: bool = False
    recorded_arrays: Callable[[RLConfig], int] = lambda rl: 0
    reference_arrays: Callable[[RLConfig], int] = lambda rl: 0
    anchor_key: str = "anchor_weight"
    build_old_policy: Callable[[nn.Module, RLConfig], EmaPolicy | None] = lambda model, rl: None
    rollout_metrics: Callable[[list[Rollout]], dict[str, float]] = lambda rollouts: {}
    warning: str | None = None

    def trains_sigma(self, rl: RLConfig) -> bool:
        """Check whether the standard deviation of the Gaussian head gets a gradient."""
        return self.needs_trained_head and rl.train_sigma


def policy_gradient_terms(rl: RLConfig, rollout: Rollout, has_reference: bool) -> list[LossTerm]:
    """List one term per trained step and, with rl.anchor_weight and a reference, the anchor loss."""
    num = len(rollout.times)
    steps: list[LossTerm] = [(grpo_loss, step, 1 / num) for step in range(num)]
    return [*steps, (anchor_loss, 0, 1.0)] if has_reference and rl.anchor_weight > 0 else steps


def has_anchor(rl: RLConfig) -> bool:
    """Check whether some updates of a policy gradient have an anchor."""
    return rl.kl_weight > 0 and rl.anchor_weight > 0


def nft_terms(rl: RLConfig, rollout: Rollout, has_reference: bool) -> list[LossTerm]:
    """List one term for each time at which finished samples are noised again."""
    return [(nft_loss, step, 1 / rl.nft.num_times) for step in range(rl.nft.num_times)]


def draft_terms(rl: RLConfig, rollout: Rollout, has_reference: bool) -> list[LossTerm]:
    """List the reward loss and, with rl.kl_weight and a reference, the squared distance to its velocity."""
    return [(draft_loss, 0, 1.0), *([(velocity_anchor, 0, 1.0)] if has_reference and rl.kl_weight > 0 else [])]


def f5r_terms(rl: RLConfig, rollout: Rollout, has_reference: bool) -> list[LossTerm]:
    """List the single term that covers all steps."""
    return [(f5r_loss, 0, 1.0)]


def num_trained_steps(rl: RLConfig) -> int:
    """Count the solver steps of rl.window that a rollout records."""
    return min(rl.window.size, rl.steps)


# What each loss asks the reference, so that all of it can be asked before the first pass of the policy.
QUESTIONS: dict[LossFn, Callable[[Models, ExperienceBatch, int, RLConfig], Any]] = {
    grpo_loss: ask_at_step,
    anchor_loss: ask_anywhere,
    velocity_anchor: ask_in_strata,
    nft_loss: ask_at_fresh_times,
    f5r_loss: ask_on_its_path,
}

ALGORITHMS = {
    "gaussian_grpo": Algorithm(
        loss_terms=policy_gradient_terms,
        draw=draw_group,
        needs_trained_head=True,
        uses_window=lambda rl: True,
        recorded_arrays=lambda rl: 4 * num_trained_steps(rl),  # state, action, mean, standard deviation
        reference_arrays=lambda rl: (
            2 * (num_trained_steps(rl) + has_anchor(rl))
        ),  # mean and deviation, velocity and noise
    ),
    "flow_grpo": Algorithm(
        loss_terms=policy_gradient_terms,
        draw=draw_group,
        uses_window=lambda rl: True,
        # state, action and mean; the standard deviation is one number per step
        recorded_arrays=lambda rl: 3 * num_trained_steps(rl),
        reference_arrays=lambda rl: num_trained_steps(rl) + 2 * has_anchor(rl),
        rollout_metrics=lambda rollouts: {"sde/noise_level": noise_level(rollouts)},
    ),
    "nft": Algorithm(
        loss_terms=nft_terms,
        build_old_policy=build_old_policy,
        reference_arrays=lambda rl: 2 * rl.nft.num_times,  # noise and velocity
    ),
    "draft": Algorithm(
        loss_terms=draft_terms,
        draw=draw_last_steps,
        uses_window=lambda rl: False,
        uses_reward_gradients=True,
        recorded_arrays=lambda rl: rl.draft.last_steps + 1,  # a state for each step, and the gradient of the rewards
        reference_arrays=lambda rl: 2,  # noise and velocity
        anchor_key="kl_weight",
    ),
    "f5r": Algorithm(
        loss_terms=f5r_terms,
        draw=draw_with_gradients,
        uses_window=lambda rl: False,
        needs_trained_head=True,
        recorded_arrays=lambda rl: 4 * rl.steps,
        reference_arrays=lambda rl: 2 * rl.steps,
        warning=(
            "warning: rl.algorithm=f5r is the published objective, kept for comparison, and wrong: its samples are "
            "not detached, so that the gradient of the mean cancels without guidance and has the wrong sign with it; "
            "it uses the density, not its logarithm; its memory grows with rl.steps. rl.algorithm=gaussian_grpo is "
            "the correct one"
        ),
    ),
}


def find_algorithm(name: str) -> Algorithm:
    """Find the entry of an `rl.algorithm`: a built-in one, or the attribute that "module:attribute" names.

    `auto` gives the entry of gaussian_grpo, which needs more memory than the other candidate: estimates are made before
    a checkpoint is read. Raises ValueError where the module is missing, or has no Algorithm of that name.
    """
    if not is_module_attribute(name):
        return ALGORITHMS["gaussian_grpo" if name == "auto" else name]
    algorithm = import_attribute(name, "rl.algorithm")
    if not isinstance(algorithm, Algorithm):
        module, _, attribute = name.partition(":")
        raise ValueError(f"rl.algorithm: module {module} has no f5_tts.rl.algorithms.Algorithm {attribute!r}")
    return algorithm
