"""Stage 2 in order: draw, score, compare, improve. READ THIS FIRST.

One update: a batch of prompts; for each a group of samples (`rollout.py`); what the reward models say of them
(`scoring.py`); how much better each is than its group (`advantage.py`); then a step of the policy towards what
scored above its group, held near the reference (`objective.py`, `kernel.py`, `gaussian.py`; or `nft.py` alone).
`f5r.py` is the published objective, for comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from f5_tts.config.schema import RLConfig
from f5_tts.model.heads import VelocityModel
from f5_tts.rl.advantage import Compare
from f5_tts.rl.f5r import draw_with_gradients, f5r_objective
from f5_tts.rl.gather import Alone, Peers, fitted, gathered, join, padded
from f5_tts.rl.metrics import group_metrics, named_as_elsewhere, noise_level, reward_metrics
from f5_tts.rl.nft import OldPolicy, nft_objective
from f5_tts.rl.policy_gradient import Models, anchor_objective, grpo_objective
from f5_tts.rl.rollout import draw_group
from f5_tts.types import GRPOBatch, LossOutput, RewardBatch, Rollout, SpeechBatch

Score = Callable[[Rollout], RewardBatch]  # what `scoring.Scorer` is
Objective = Callable[[Models, GRPOBatch, int, RLConfig], LossOutput]


def draw_experience(
    policy: VelocityModel,
    updates: Iterable[list[SpeechBatch]],
    scorer: Score,
    compare: Compare,
    rl: RLConfig,
    *,
    old: OldPolicy | None = None,
    peers: Peers | None = None,
) -> Iterator[list[GRPOBatch]]:
    """For every list of prompt batches what an update learns from: whole groups, scored, with their advantages.

    `rl.updates_per_rollout` updates get the same. `old`, if given, draws in the policy's place. `peers` are the other
    processes: samples are compared among all of them, by prompt.
    """
    peers = peers or Alone()
    draw = draw_with_gradients if rl.algorithm == "f5r" else draw_group
    for batches in updates:
        if not batches:  # no row of theirs can be read, on any process
            yield from ([] for _ in range(rl.updates_per_rollout))
            continue
        if old is not None:
            old.follow()
        drawing = (rollout for batch in batches for rollout in draw(old or policy, batch, rl))
        with peers.failing_together():
            rollouts, scored, metrics = drawn_and_scored(drawing, scorer, rl.rewards.overlap)
        rewards = gathered(join(scored), peers)
        group_ids = peers.gather(torch.cat([rollout.batch.group_ids for rollout in rollouts]).cpu())
        target = peers.gather(padded([rollout.target.cpu() for rollout in rollouts]))
        compared = compare(rewards.parts | rewards.frames, group_ids, target)
        metrics |= reward_metrics(rewards, group_ids) | group_metrics(rewards.total, group_ids)
        metrics["steps/trained"] = float(len(rollouts[0].times))
        if rl.algorithm == "flow_grpo":
            metrics["sde/noise_level"] = noise_level(rollouts)
        metrics["advantage/abs_mean"] = float((compared if compared.ndim == 1 else compared[target]).abs().mean())
        advantages = peers.own(compared)
        sizes = [len(rollout.mel) for rollout in rollouts]
        share = peers.world / len(group_ids)  # processes' gradients are averaged, not added
        experience = [
            GRPOBatch(
                rollout=rollout,
                advantages=fitted(part, rollout),
                share=len(part) * share,
                metrics=metrics,
                rewards=said,
            )
            for rollout, part, said in zip(rollouts, advantages.split(sizes), scored, strict=True)
        ]
        for use in range(rl.updates_per_rollout):
            yield [replace(batch, is_fresh=use == 0) for batch in experience]


def drawn_and_scored(
    drawing: Iterable[Rollout], scorer: Score, overlap: bool
) -> tuple[list[Rollout], list[RewardBatch], dict[str, float]]:
    """Rollouts, their rewards, and the seconds of both; with `overlap` one is scored while the next is drawn.

    `time/reward` is then what scoring takes after the last is drawn.
    """
    started, rollouts, asked = time.perf_counter(), [], []
    with ThreadPoolExecutor(1) as beside:
        for rollout in drawing:
            rollouts.append(rollout)
            if overlap:
                asked.append(beside.submit(scorer, rollout))
        drawn = time.perf_counter()
        scored = [answer.result() for answer in asked] if overlap else [scorer(rollout) for rollout in rollouts]
    return rollouts, scored, {"time/rollout": drawn - started, "time/reward": time.perf_counter() - drawn}


class GRPOLoss:
    """Slices of an update's loss, one trained step (nft: fresh time) of one forward pass each: memory holds one."""

    def __init__(self, rl: RLConfig, reference: VelocityModel | None = None, old: VelocityModel | None = None) -> None:
        self.rl, self.reference, self.old = rl, reference, old

    def __call__(self, policy: VelocityModel, batches: list[GRPOBatch]) -> Iterator[LossOutput]:
        models = Models(policy, self.reference, self.old)
        for batch in batches:
            seconds = batch.rewards.seconds if batch.rewards and batch.is_fresh else 0.0
            for objective, step, weight in self.slices(batch):
                output = objective(models, batch, step, self.rl)
                metrics = named_as_elsewhere(output.metrics) | batch.metrics
                if batch.is_fresh:
                    metrics |= self.check_on_policy(output.metrics)
                yield LossOutput(loss=output.loss * batch.share * weight, metrics=metrics, seconds=seconds)
                seconds = 0.0

    def slices(self, batch: GRPOBatch) -> list[tuple[Objective, int, float]]:
        """Objective, step and weight of each part of a batch's loss."""
        if self.rl.algorithm == "nft":
            return [(nft_objective, step, 1 / self.rl.nft.num_times) for step in range(self.rl.nft.num_times)]
        if self.rl.algorithm == "f5r":
            return [(f5r_objective, 0, 1.0)]
        num = len(batch.rollout.times)
        steps: list[tuple[Objective, int, float]] = [(grpo_objective, step, 1 / num) for step in range(num)]
        anchored = self.reference is not None and self.rl.anchor_weight > 0
        return [*steps, (anchor_objective, 0, 1.0)] if anchored else steps

    def check_on_policy(self, metrics: dict[str, float]) -> dict[str, float]:
        """The policy that drew is the policy that learns: the ratio must be 1, or the gradient is of something else."""
        if "ratio/max_dev" not in metrics:
            return {}
        deviation, limit = metrics["ratio/max_dev"], min(self.rl.clip_low, self.rl.clip_high) / 10
        if deviation > limit:
            raise FloatingPointError(
                f"the ratio is off by {deviation:.2g} before any update (allowed: {limit:.2g}, a tenth of rl.clip_low "
                "and rl.clip_high): drawing and training disagree; is dropout on, or optim.mixed_precision too coarse?"
            )
        return {"ratio/initial_max_dev": deviation}
