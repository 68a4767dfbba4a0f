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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from f5_tts.model.heads import VelocityModel
from f5_tts.rl.advantage import Compare, without_spread
from f5_tts.rl.f5r import draw_with_gradients, f5r_objective
from f5_tts.rl.nft import OldPolicy, nft_objective
from f5_tts.rl.objective import Models, anchor_objective, grpo_objective
from f5_tts.rl.rollout import draw_group
from f5_tts.sections import RLConfig
from f5_tts.types import GRPOBatch, LossOutput, Peers, RewardBatch, Rollout, SpeechBatch

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


class Alone:
    """One process: its samples are all."""

    world = 1

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    def own(self, rows: Tensor) -> Tensor:
        return rows

    def failing_together(self) -> AbstractContextManager[None]:
        return nullcontext()


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


def join(batches: list[RewardBatch]) -> RewardBatch:
    """The rewards of several rollouts as those of one."""
    first = batches[0]
    parts = {name: torch.cat([batch.parts[name] for batch in batches]) for name in first.parts}
    reported = {name: torch.cat([batch.reported[name] for batch in batches]) for name in first.reported}
    frames = {name: padded([batch.frames[name] for batch in batches]) for name in first.frames}
    texts = {name: [text for batch in batches for text in batch.texts[name]] for name in first.texts}
    total = torch.cat([batch.total for batch in batches])
    return replace(first, total=total, parts=parts, reported=reported, frames=frames, texts=texts)


def gathered(rewards: RewardBatch, peers: Peers) -> RewardBatch:
    """The rewards of all processes; texts, which nobody compares, stay with their own."""
    kinds = {"parts": rewards.parts, "reported": rewards.reported, "frames": rewards.frames}
    of_all = {kind: {name: peers.gather(score) for name, score in part.items()} for kind, part in kinds.items()}
    return replace(rewards, total=peers.gather(rewards.total), texts={}, **of_all)


def padded(rows: list[Tensor]) -> Tensor:
    """Rows of frames of several rollouts as one tensor, of the longest's length."""
    length = max(part.shape[1] for part in rows)
    return torch.cat([torch.nn.functional.pad(part, (0, length - part.shape[1])) for part in rows])


def fitted(advantages: Tensor, rollout: Rollout) -> Tensor:
    """Advantages where the rollout is, those of frames cut to its length."""
    return (advantages if advantages.ndim == 1 else advantages[:, : rollout.mel.shape[1]]).to(rollout.mel)


# A component, as a provider calls it -> as everybody does; of several providers the first counts. (One that has a `cer`
# counts characters: its `wer` is that rate, and not one of words.)
KNOWN_AS = {name: f"asr/{name}" for name in ("cer", "wer", "ins", "del", "sub")} | {"sim": "spk/sim"}


def reward_metrics(rewards: RewardBatch, group_ids: Tensor) -> dict[str, float]:
    """What an update's rewards look like; names as in docs/metrics.md."""
    total = rewards.total
    scores = torch.stack(list(rewards.parts.values()))
    seen = {
        "reward/mean": total.mean(),
        "reward/std": total.std(correction=0),
        "reward/min": total.min(),
        "reward/max": total.max(),
        "reward/not_applicable": scores.isnan().float().mean(),
        "frac_reward_zero_std": without_spread(rewards.parts, group_ids).float().mean(),
    }
    seen |= {"reward": seen["reward/mean"], "reward_std": seen["reward/std"]}
    every = rewards.parts | rewards.reported
    unusable = [score for name, score in every.items() if name.endswith(".unusable")]
    seen["health/reward_failures"] = torch.stack([torch.zeros_like(total), *unusable]).amax(dim=0).sum()
    seen |= {f"reward/{name}": score.nanmean() for name, score in every.items()}
    for name, score in reversed(every.items()):
        provider, _, component = name.rpartition(".")
        is_of_words = component != "wer" or f"{provider}.cer" not in every
        if component in KNOWN_AS and is_of_words:
            seen[KNOWN_AS[component]] = score.nanmean()
    for name, score in rewards.parts.items():
        provider, _, _ = name.rpartition(".")
        seen |= {f"rewards/{provider}/mean": score.nanmean(), f"rewards/{provider}/std": nanstd(score)}
    return {name: float(value) for name, value in seen.items()}


def nanstd(scores: Tensor) -> Tensor:
    """The standard deviation of the scores that apply; NaN where none does."""
    scores = scores[~scores.isnan()]
    return scores.std(correction=0) if len(scores) else scores.new_tensor(torch.nan)


def group_metrics(total: Tensor, group_ids: Tensor) -> dict[str, float]:
    """How many groups an update has, how large they are, and how much their members' rewards differ."""
    spreads = [total[group_ids == group].std(correction=0) for group in group_ids.unique()]
    return {
        "group/prompts": float(len(spreads)),
        "group/size": len(total) / len(spreads),
        "group/reward_std_mean": float(torch.stack(spreads).mean()),
    }


def noise_level(rollouts: list[Rollout]) -> float:
    """σ of the path dx = ... + σ dW, mean over trained steps: what a step draws has standard deviation σ √(t' - t)."""
    stds = torch.cat([rollout.stds.flatten() for rollout in rollouts])  # one number a step
    lengths = torch.cat([rollout.next_times - rollout.times for rollout in rollouts])
    return float((stds / lengths.sqrt()).mean())


def named_as_elsewhere(metrics: dict[str, float]) -> dict[str, float]:
    """With the names that other trainers give to the same: what is minimised of the policy, the KL to the reference,
    and that to the policy that drew."""
    if "loss/pro_adv" not in metrics:
        return metrics
    drew = {"kl/old": metrics["approx_kl"]} if "approx_kl" in metrics else {}
    return metrics | {"loss/policy": -metrics["loss/pro_adv"], "kl": metrics["loss/kl"]} | drew
