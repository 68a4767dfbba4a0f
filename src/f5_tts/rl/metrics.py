"""Metrics of rewards, groups and rollouts; names as in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from f5_tts.rl.advantage import zero_std_groups
from f5_tts.rl.gather import GatheredRewards
from f5_tts.types import RewardBatch, Rollout

# A component, as a provider calls it -> as everybody does; of several providers the first counts. (One that has a `cer`
# counts characters: its `wer` is that rate, and not one of words.)
METRIC_ALIASES = {name: f"asr/{name}" for name in ("cer", "wer", "ins", "del", "sub")} | {"sim": "spk/sim"}


def reward_metrics(rewards: RewardBatch, group_ids: Tensor) -> dict[str, float]:
    """What an update's rewards look like; names as in docs/metrics.md."""
    total = rewards.total
    scores = torch.stack(list(rewards.components.values()))
    metrics = {
        "reward/mean": total.mean(),
        "reward/std": total.std(correction=0),
        "reward/min": total.min(),
        "reward/max": total.max(),
        "reward/not_applicable": scores.isnan().float().mean(),
        "frac_reward_zero_std": zero_std_groups(rewards.components, group_ids).float().mean(),
    }
    metrics |= {"reward": metrics["reward/mean"], "reward_std": metrics["reward/std"]}
    all_scores = rewards.components | rewards.diagnostics
    unusable = [score for name, score in all_scores.items() if name.endswith(".unusable")]
    metrics["health/reward_failures"] = torch.stack([torch.zeros_like(total), *unusable]).amax(dim=0).sum()
    metrics |= {f"reward/{name}": score.nanmean() for name, score in all_scores.items()}
    for name, score in reversed(all_scores.items()):
        provider, _, component = name.rpartition(".")
        is_of_words = component != "wer" or f"{provider}.cer" not in all_scores
        if component in METRIC_ALIASES and is_of_words:
            metrics[METRIC_ALIASES[component]] = score.nanmean()
    for name, score in rewards.components.items():
        provider, _, _ = name.rpartition(".")
        metrics |= {f"rewards/{provider}/mean": score.nanmean(), f"rewards/{provider}/std": nanstd(score)}
    return {name: float(value) for name, value in metrics.items()}


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


def add_metric_aliases(metrics: dict[str, float]) -> dict[str, float]:
    """With the names that other trainers give to the same: what is minimised of the policy, the KL to the reference,
    and that to the policy that drew."""
    if "loss/pro_adv" not in metrics:
        return metrics
    old_kl = {"kl/old": metrics["approx_kl"]} if "approx_kl" in metrics else {}
    return metrics | {"loss/policy": -metrics["loss/pro_adv"], "kl": metrics["loss/kl"]} | old_kl


def experience_metrics(
    gathered: GatheredRewards, advantages: Tensor, rollout_metrics: Mapping[str, float]
) -> dict[str, float]:
    """Return the metrics of an update's rewards, groups, rollouts and advantages, in the order of metrics.jsonl.

    Args:
        advantages: those of all ranks' samples, or of their frames.
        rollout_metrics: what the algorithm measures of its rollouts.
    """
    metrics = reward_metrics(gathered.rewards, gathered.group_ids) | group_metrics(
        gathered.rewards.total, gathered.group_ids
    )
    metrics |= {"steps/trained": float(len(gathered.rollouts[0].times)), **rollout_metrics}
    generated = advantages if advantages.ndim == 1 else advantages[gathered.target_mask]
    return metrics | {"advantage/abs_mean": float(generated.abs().mean())}
