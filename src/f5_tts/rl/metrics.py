"""Metrics of rewards, groups and rollouts; names as in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from f5_tts.rl.advantage import without_spread
from f5_tts.rl.gather import GatheredRewards
from f5_tts.types import RewardBatch, Rollout

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


def experience_metrics(
    shared: GatheredRewards, compared: Tensor, rollout_metrics: Mapping[str, float]
) -> dict[str, float]:
    """Return the metrics of an update's rewards, groups, rollouts and advantages, in the order of metrics.jsonl.

    Args:
        compared: the advantages of all ranks' samples, or of their frames.
        rollout_metrics: what the algorithm measures of its rollouts.
    """
    metrics = reward_metrics(shared.rewards, shared.group_ids) | group_metrics(shared.rewards.total, shared.group_ids)
    metrics |= {"steps/trained": float(len(shared.rollouts[0].times)), **rollout_metrics}
    advantages = compared if compared.ndim == 1 else compared[shared.target]
    return metrics | {"advantage/abs_mean": float(advantages.abs().mean())}
