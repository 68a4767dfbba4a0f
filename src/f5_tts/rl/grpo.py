"""Stage 2 in order: draw, score, compare, improve. READ THIS FIRST.

One update: a batch of prompts; for each a group of samples (`rollout.py`); what the reward models say of them
(`scoring.py`); how much better each is than its group (`advantage.py`); then a step of the policy towards what
scored above its group, held near the reference (`objective.py`, `kernel.py`, `gaussian.py`; or `nft.py` alone).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch

from f5_tts.config import RLConfig
from f5_tts.model.cfm import CFM
from f5_tts.rl.advantage import group_advantages, without_spread
from f5_tts.rl.nft import nft_objective
from f5_tts.rl.objective import grpo_objective
from f5_tts.rl.rollout import draw_group
from f5_tts.rl.scoring import Scorer
from f5_tts.types import GRPOBatch, LossOutput, RewardBatch, SpeechBatch


def draw_experience(
    policy: CFM, batches: Iterable[SpeechBatch], scorer: Scorer, rl: RLConfig
) -> Iterator[list[GRPOBatch]]:
    """For every batch of prompts what one update learns from: whole groups, scored, with their advantages."""
    for batch in batches:
        started = time.perf_counter()
        rollouts = list(draw_group(policy, batch, rl))
        drawn = time.perf_counter()
        rewards = join([scorer(rollout) for rollout in rollouts])
        group_ids = torch.cat([rollout.batch.group_ids for rollout in rollouts]).cpu()
        scores = rewards.parts | rewards.frames
        target = torch.cat([rollout.target for rollout in rollouts]).cpu()
        advantages = group_advantages(scores, group_ids, scorer.weights, scorer.floors, rl.advantage_clip, target)
        metrics = reward_metrics(rewards, group_ids)
        metrics |= {"time/rollout": drawn - started, "time/reward": time.perf_counter() - drawn}
        sizes = [len(rollout.mel) for rollout in rollouts]
        yield [
            GRPOBatch(rollout=rollout, advantages=part.to(rollout.mel), share=len(part) / sum(sizes), metrics=metrics)
            for rollout, part in zip(rollouts, advantages.split(sizes), strict=True)
        ]


class GRPOLoss:
    """Slices of an update's loss, one trained step (nft: fresh time) of one forward pass each: memory holds one."""

    def __init__(self, reference: CFM | None, rl: RLConfig) -> None:
        self.reference, self.rl = reference, rl

    def __call__(self, policy: CFM, batches: list[GRPOBatch]) -> Iterator[LossOutput]:
        is_nft = self.rl.algorithm == "nft"
        objective = nft_objective if is_nft else grpo_objective
        for batch in batches:
            num_slices = self.rl.nft.num_times if is_nft else len(batch.rollout.times)
            for step in range(num_slices):
                output = objective(policy, self.reference, batch, step, self.rl)
                self.check_on_policy(output.metrics.get("ratio/max_dev", 0.0))
                yield LossOutput(loss=output.loss * batch.share / num_slices, metrics=output.metrics | batch.metrics)

    def check_on_policy(self, deviation: float) -> None:
        """The policy that drew is the policy that learns: the ratio must be 1, or the gradient is of something else."""
        limit = min(self.rl.clip_low, self.rl.clip_high) / 10
        if deviation > limit:
            raise FloatingPointError(
                f"the ratio is off by {deviation:.2g} before any update (allowed: {limit:.2g}, a tenth of rl.clip_low "
                "and rl.clip_high): drawing and training disagree; is dropout on, or optim.mixed_precision too coarse?"
            )


def join(batches: list[RewardBatch]) -> RewardBatch:
    """The rewards of several rollouts as those of one."""
    first = batches[0]
    parts = {name: torch.cat([batch.parts[name] for batch in batches]) for name in first.parts}
    frames = {name: torch.cat([batch.frames[name] for batch in batches]) for name in first.frames}
    total = torch.cat([batch.total for batch in batches])
    return RewardBatch(total=total, parts=parts, weights=first.weights, frames=frames)


def reward_metrics(rewards: RewardBatch, group_ids: torch.Tensor) -> dict[str, float]:
    """What an update's rewards look like; names as in docs/metrics.md."""
    total = rewards.total
    seen = {
        "reward/mean": total.mean(),
        "reward/std": total.std(correction=0),
        "reward/min": total.min(),
        "reward/max": total.max(),
        "frac_reward_zero_std": without_spread(rewards.parts, group_ids).float().mean(),
    }
    seen |= {f"reward/{name}": score.mean() for name, score in rewards.parts.items()}
    return {name: float(value) for name, value in seen.items()}
