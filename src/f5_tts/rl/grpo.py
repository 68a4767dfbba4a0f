"""Stage 2 in order: draw, score, compare, improve. READ THIS FIRST.

One update: a batch of prompts; for each a group of samples (`rollout.py`); what the reward models say of them
(`scoring.py`); how much better each is than its group (`advantage.py`); then a step of the policy towards what
scored above its group, held near the reference (`policy_gradient.py`, `kernel.py`, `gaussian.py`; or `nft.py` alone).
`f5r.py` is the published objective, for comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from f5_tts.config.schema import RLConfig
from f5_tts.model.heads import VelocityModel
from f5_tts.rl.advantage import Compare
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.rl.gather import Alone, Peers, over_ranks
from f5_tts.rl.metrics import experience_metrics, named_as_elsewhere
from f5_tts.rl.nft import OldPolicy
from f5_tts.rl.policy_gradient import Models
from f5_tts.types import GRPOBatch, LossOutput, RewardBatch, Rollout, SpeechBatch

Score = Callable[[Rollout], RewardBatch]  # what `scoring.Scorer` is


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
    peers, algorithm = peers or Alone(), find_algorithm(rl.algorithm)
    for batches in updates:
        if not batches:  # no row of theirs can be read, on any process
            yield from ([] for _ in range(rl.updates_per_rollout))
            continue
        if old is not None:
            old.follow()
        drawing = (rollout for batch in batches for rollout in algorithm.draw(old or policy, batch, rl))
        with peers.failing_together():
            rollouts, scored, metrics = drawn_and_scored(drawing, scorer, rl.rewards.overlap)
        shared = over_ranks(rollouts, scored, peers)
        compared = compare(shared.rewards.parts | shared.rewards.frames, shared.group_ids, shared.target)
        metrics |= experience_metrics(shared, compared, algorithm.rollout_metrics(rollouts))
        experience = [
            GRPOBatch(
                rollout=rollout,
                advantages=advantages,
                share=len(advantages) * shared.share,
                metrics=metrics,
                rewards=said,
            )
            for rollout, advantages, said in zip(rollouts, shared.by_rollout(compared, peers), scored, strict=True)
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
        models, find_terms = Models(policy, self.reference, self.old), find_algorithm(self.rl.algorithm).loss_terms
        for batch in batches:
            seconds = batch.rewards.seconds if batch.rewards and batch.is_fresh else 0.0
            for objective, step, weight in find_terms(self.rl, batch.rollout, self.reference is not None):
                output = objective(models, batch, step, self.rl)
                metrics = named_as_elsewhere(output.metrics) | batch.metrics
                if batch.is_fresh:
                    metrics |= self.check_on_policy(output.metrics)
                yield LossOutput(loss=output.loss * batch.share * weight, metrics=metrics, seconds=seconds)
                seconds = 0.0

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
