"""Stage 2 in order: rollouts, rewards, advantages and the loss of the policy. START HERE.

One update takes a batch of prompts. The policy draws a group of samples for each prompt (`rollout.py`). The reward
models score the samples (`scoring.py`). Each score is compared with the rest of its group, over all ranks
(`advantage.py`, `gather.py`). The loss then makes samples above their group more likely and keeps the policy near the
reference (`policy_gradient.py`, `kernel.py`, `gaussian.py`). `algorithms.py` lists the algorithms; `nft.py` needs
finished samples only, and `f5r.py` is the published objective, for comparison. `draft.py` learns from the gradients of
rewards: its samples are not compared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from f5_tts.config.schema import RLConfig
from f5_tts.model.heads import VelocityModel
from f5_tts.model.snapshot import Snapshot
from f5_tts.rl.advantage import AdvantageFn
from f5_tts.rl.algorithms import QUESTIONS, LossTerm, find_algorithm
from f5_tts.rl.draft import differentiate_rewards, draft_loss, draw_beside
from f5_tts.rl.gather import Ranks, SingleRank, gather_over_ranks
from f5_tts.rl.metrics import add_metric_aliases, experience_metrics
from f5_tts.rl.nft import EmaPolicy
from f5_tts.rl.policy_gradient import Models, check_on_policy, with_anchor_of
from f5_tts.rl.rollout import rollout_and_score
from f5_tts.types import ExperienceBatch, LossOutput, ScoreFn, Scorer, SpeechBatch


def collect_experience(
    policy: VelocityModel,
    updates: Iterable[list[SpeechBatch]],
    scorer: Scorer | ScoreFn,
    advantage_fn: AdvantageFn | None,
    rl: RLConfig,
    *,
    old_policy: EmaPolicy | None = None,
    ranks: Ranks | None = None,
    update: int = 0,
) -> Iterator[list[ExperienceBatch]]:
    """Yield the experience of each update: samples with rewards and advantages, or with the gradients of rewards.

    Each item of the input is the list of prompt batches of one rollout. `rl.updates_per_rollout` consecutive updates
    get the same experience; after a resume at an `update` that is no multiple of it, the first rollout has fewer, up to
    the next multiple. If an old policy is given, it draws in place of the current one the samples to compare.
    """
    ranks, algorithm = ranks or SingleRank(), find_algorithm(rl.algorithm)
    alone = algorithm.uses_reward_gradients
    uses = rl.updates_per_rollout - update % rl.updates_per_rollout
    for batches in updates:
        if old_policy is not None:
            old_policy.ema_update()
        experience: list[ExperienceBatch] = []
        if not alone:
            assert advantage_fn is not None, "an algorithm that compares samples needs advantages"
            experience += compare_samples(old_policy or policy, batches, scorer, advantage_fn, rl, ranks)
        if alone or rl.draft.weight > 0:
            assert isinstance(scorer, Scorer), "the rewards have no gradients"
            draw = algorithm.draw if alone else draw_beside
            rollouts = (rollout for batch in batches for rollout in draw(policy, batch, rl))
            experience += differentiate_rewards(rollouts, scorer, ranks, alone=alone)
        for use in range(uses):
            yield [replace(batch, is_on_policy=use == 0, update=update) for batch in experience]
            update += 1
        uses = rl.updates_per_rollout


def compare_samples(
    policy: VelocityModel,
    batches: Sequence[SpeechBatch],
    scorer: ScoreFn,
    advantage_fn: AdvantageFn,
    rl: RLConfig,
    ranks: Ranks,
) -> list[ExperienceBatch]:
    """Draw and score a group of samples for each prompt; compare each with all samples of its prompt, on all ranks."""
    algorithm = find_algorithm(rl.algorithm)
    rollout_stream = (rollout for batch in batches for rollout in algorithm.draw(policy, batch, rl))
    with ranks.raise_on_all_ranks():
        rollouts, rewards_by_rollout, metrics = rollout_and_score(rollout_stream, scorer, rl.rewards.overlap)
    gathered = gather_over_ranks(rollouts, rewards_by_rollout, ranks)
    all_advantages = advantage_fn(
        gathered.rewards.components | gathered.rewards.frame_scores, gathered.group_ids, gathered.target_mask
    )
    metrics |= experience_metrics(gathered, all_advantages, algorithm.rollout_metrics(rollouts))
    return [
        ExperienceBatch(
            rollout=rollout,
            advantages=advantages,
            loss_weight=len(advantages) * gathered.sample_weight,
            metrics=metrics,
            rewards=reward_batch,
        )
        for rollout, advantages, reward_batch in zip(
            rollouts, gathered.by_rollout(all_advantages, ranks), rewards_by_rollout, strict=True
        )
    ]


class PolicyLoss:
    """Loss of one update, in slices of one trained step (nft: one drawn time) and one forward pass each.

    Memory holds the graph of one slice at a time.
    """

    def __init__(
        self, rl: RLConfig, reference: VelocityModel | None = None, old_policy: VelocityModel | None = None
    ) -> None:
        self.rl, self.reference, self.old_policy = rl, reference, old_policy

    def __call__(self, policy: VelocityModel, batches: list[ExperienceBatch]) -> Iterator[LossOutput]:
        """Yield the loss of an update in slices that add up to it."""
        models = Models(policy, self.reference, self.old_policy)
        answers = deque(self.ask_ahead(models, batches))
        for batch in batches:
            seconds = batch.rewards.seconds if batch.rewards and batch.is_on_policy else 0.0
            rl = self.settings_of(batch)
            for loss_fn, step, weight in self.loss_terms(batch, rl):
                answer = answers.popleft() if answers else None
                output = loss_fn(models._replace(answer=answer), batch, step, rl)
                metrics = add_metric_aliases(output.metrics) | batch.metrics
                check = None
                if batch.is_on_policy and "ratio/max_dev" in metrics:
                    metrics["ratio/initial_max_dev"] = metrics["ratio/max_dev"]
                    check = partial(check_on_policy, rl=rl)
                loss = output.loss * batch.loss_weight * weight
                yield LossOutput(loss=loss, metrics=metrics, seconds=seconds, check=check)
                seconds = 0.0

    def ask_ahead(self, models: Models, batches: list[ExperienceBatch]) -> list[Any]:
        """Ask a reference that is stored elsewhere all that the slices of an update need, so that it is copied once.

        The copy is gone before the first pass of the policy. The answer is None to a loss that asks nothing, and to one
        of a user, which asks by itself. A reference on the model's device is asked slice by slice.
        """
        if not isinstance(self.reference, Snapshot) or self.reference.device is None:
            return []
        with self.reference.on_device():
            return [
                QUESTIONS[loss_fn](models, batch, step, rl) if loss_fn in QUESTIONS else None
                for batch in batches
                for rl in [self.settings_of(batch)]
                for loss_fn, step, _ in self.loss_terms(batch, rl)
            ]

    def settings_of(self, batch: ExperienceBatch) -> RLConfig:
        """Return the settings of a batch's update: some have no anchor, with rl.anchor_every."""
        return with_anchor_of(self.rl, batch.update, find_algorithm(self.rl.algorithm).anchor_key)

    def loss_terms(self, batch: ExperienceBatch, rl: RLConfig) -> list[LossTerm]:
        """List the terms of a batch's loss: those of rl.algorithm, or of the draft samples drawn beside it."""
        algorithm = find_algorithm(rl.algorithm)
        if batch.mel_gradient is not None and not algorithm.uses_reward_gradients:
            return [(draft_loss, 0, rl.draft.weight)]
        return algorithm.loss_terms(rl, batch.rollout, self.reference is not None)
