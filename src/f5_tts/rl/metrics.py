"""Metrics of rewards, groups and rollouts; names as in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from f5_tts.rl.advantage import zero_std_groups
from f5_tts.rl.gather import GatheredRewards
from f5_tts.types import RewardBatch, Rollout

# Component name of a provider -> usual metric name; of several providers the first one is used. A provider with a
# `cer` counts characters: its `wer` is that rate too, and not one of words.
METRIC_ALIASES = {name: f"asr/{name}" for name in ("cer", "wer", "ins", "del", "sub")} | {"sim": "spk/sim"}


def reward_metrics(rewards: RewardBatch, group_ids: Tensor) -> dict[str, float]:
    """Compute the reward metrics of an update; names as in docs/metrics.md."""
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
    """Compute the standard deviation of the scores that apply; NaN where none does."""
    scores = scores[~scores.isnan()]
    return scores.std(correction=0) if len(scores) else scores.new_tensor(torch.nan)


def group_metrics(total: Tensor, group_ids: Tensor) -> dict[str, float]:
    """Compute the number of groups, their mean size, and the mean standard deviation of rewards within them."""
    spreads = [total[group_ids == group].std(correction=0) for group in group_ids.unique()]
    return {
        "group/prompts": float(len(spreads)),
        "group/size": len(total) / len(spreads),
        "group/reward_std_mean": float(torch.stack(spreads).mean()),
    }


def noise_level(rollouts: list[Rollout]) -> float:
    """Compute σ of the SDE dx = ... + σ dW, averaged over the trained steps.

    A step from t to t' draws with standard deviation σ √(t' - t).
    """
    stds = torch.cat([rollout.stds.flatten() for rollout in rollouts])  # one number per step
    lengths = torch.cat([rollout.next_times - rollout.times for rollout in rollouts])
    return float((stds / lengths.sqrt()).mean())


def add_metric_aliases(metrics: Mapping[str, float | Tensor]) -> dict[str, float | Tensor]:
    """Add the names that other trainers use for the same metrics.

    These are the policy loss, the KL to the reference, and the KL to the policy that drew the samples.
    """
    metrics = dict(metrics)
    if "loss/pro_adv" not in metrics:
        return metrics | ({"kl": metrics["loss/kl"]} if "loss/kl" in metrics else {})
    old_kl = {"kl/old": metrics["approx_kl"]} if "approx_kl" in metrics else {}
    return metrics | {"loss/policy": -metrics["loss/pro_adv"], "kl": metrics["loss/kl"]} | old_kl


COMPARED = ("frac_reward_zero_std",)  # metrics of compared scores, which say nothing of reward losses


def reward_loss_metrics(gathered: GatheredRewards, *, alone: bool) -> dict[str, float]:
    """Compute the metrics of reward losses; without the names that scores have, where scores are compared too."""
    metrics = reward_metrics(gathered.rewards, gathered.group_ids)
    metrics["steps/trained"] = float(len(gathered.rollouts[0].times))
    shown = {name: value for name, value in metrics.items() if name not in COMPARED and (alone or "." in name)}
    return {"draft/loss": -metrics["reward/mean"], **shown}


def experience_metrics(
    gathered: GatheredRewards, advantages: Tensor, rollout_metrics: Mapping[str, float]
) -> dict[str, float]:
    """Compute the metrics of an update's rewards, groups, rollouts and advantages, in the order of metrics.jsonl.

    Advantages are those of all ranks, per sample or per frame.
    """
    metrics = reward_metrics(gathered.rewards, gathered.group_ids) | group_metrics(
        gathered.rewards.total, gathered.group_ids
    )
    metrics |= {"steps/trained": float(len(gathered.rollouts[0].times)), **rollout_metrics}
    generated = advantages if advantages.ndim == 1 else advantages[gathered.target_mask]
    return metrics | {"advantage/abs_mean": float(generated.abs().mean())}
