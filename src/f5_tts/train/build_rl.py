"""Builders of the objects that only stage 2 needs: policy, reference, rewards, advantages."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from f5_tts.config.reward_names import full_name, is_reward, rewarded
from f5_tts.config.schema import ConfigError, ModelConfig, RLConfig, RLTrainConfig, group_size
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.eval.judges import describe_rewarded
from f5_tts.eval.results import metric_prefix
from f5_tts.model.build import build_model, build_vocoder
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import Checkpoint, load_weights, match_weights, read_checkpoint
from f5_tts.model.fsdp import shard_like
from f5_tts.model.grow import grow_to
from f5_tts.model.lora import add_adapters, with_zero_adapters
from f5_tts.model.precision import choose_precision
from f5_tts.model.snapshot import Snapshot
from f5_tts.rewards.registry import build_providers
from f5_tts.rl.advantage import GroupAdvantage, RunningBaseline
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.rl.kernel import trainable_steps
from f5_tts.rl.rollout import rollout_grid
from f5_tts.rl.scoring import RewardScorer
from f5_tts.train.alarms import ALARMS, MAX_KL, AlarmFn, kl_out_of_range, less_natural, reward_hacked
from f5_tts.train.run_settings import keep_precision, resumed_payload
from f5_tts.train.validation import Best, selecting_metric


def build_policy(
    cfg: RLTrainConfig, vocabulary: Vocabulary, initial: Checkpoint, log: Callable[[str], None] = print
) -> CFM:
    """Build the model of stage 2 with its initial weights and adapters; parameters that are not trained are frozen."""
    torch.manual_seed(cfg.optim.seed)
    # no dropout, neither in rollouts nor in the loss: the ratio would not be 1
    model = build_model(cfg.model, vocabulary).eval()
    grown = grow_to(initial, vocabulary.symbols, log=lambda message: None)  # the state says so
    load_weights(model, grown, log)
    add_adapters(model, cfg.lora, log)
    return model


def build_scorer(model: ModelConfig, rl: RLConfig) -> RewardScorer:
    """Build the vocoder and the rewards of a run."""
    return RewardScorer(build_vocoder(model), build_providers(rl.rewards.providers), rl, model.mel_spec)


def build_advantage(
    scorer: RewardScorer, rl: RLConfig, log: Callable[[str], None] = print
) -> GroupAdvantage | RunningBaseline | None:
    """Build the function that turns rewards into advantages; None where the algorithm compares no samples.

    Groups of one get a running baseline instead of a group, with a warning.
    """
    if find_algorithm(rl.algorithm).uses_reward_gradients:
        return None
    if group_size(rl) > 1:
        return GroupAdvantage(scorer.weights, scorer.floors, rl)
    log(
        f"warning: rl.repeat_count={rl.repeat_count} x rl.mini_repeat_count={rl.mini_repeat_count} makes groups of "
        "one; each reward is compared with its running mean instead, which learns more slowly; prefer "
        "rl.mini_repeat_count=8"
    )
    return RunningBaseline(scorer.weights, scorer.floors, clip=rl.advantage_clip)


def build_reference(
    model: CFM, rl: RLConfig, vocabulary: Vocabulary, log: Callable[[str], None] = print
) -> Snapshot | None:
    """Build the reference of the KL: the current model, or rl.ref_model_ckpt.

    Returns None without rl.kl_weight.
    """
    if rl.kl_weight == 0:
        return None
    reference = Snapshot(model, rl.ref_model_device)
    if rl.ref_model_ckpt is not None:
        checkpoint = read_checkpoint(Path(rl.ref_model_ckpt)).with_weights("ema" if rl.ref_model_use_ema else "raw")
        checkpoint = grow_to(checkpoint, vocabulary.symbols, log)
        device = rl.ref_model_device or next(model.parameters()).device
        weights = shard_like(with_zero_adapters(model, match_weights(model, checkpoint, log)), model.state_dict())
        reference.store({name: value.to(device) for name, value in weights.items()})
    return reference


def resolve_algorithm(requested: str, checkpoint: Checkpoint, log: Callable[[str], None] = print) -> str:
    """Resolve `rl.algorithm`; `auto` depends on whether the checkpoint has a trained Gaussian head.

    Raises ValueError when the algorithm needs a trained head that the checkpoint lacks. Reports the choice, and the
    algorithm's warning if it has one.
    """
    trained = checkpoint.has_trained_head
    if requested == "auto":
        chosen, article = ("gaussian_grpo", "a") if trained else ("flow_grpo", "no")
        log(f"rl.algorithm=auto: {checkpoint.path} has {article} trained Gaussian head, so {chosen}")
        return chosen
    algorithm = find_algorithm(requested)
    if algorithm.needs_trained_head and not trained:
        raise ValueError(
            f"rl.algorithm={requested} needs a trained Gaussian head, and {checkpoint.path} has none: train stage 1 "
            "first (model.objective=gaussian_nll), or use rl.algorithm=flow_grpo, nft or draft"
        )
    if algorithm.warning is not None:
        log(algorithm.warning)
    return requested


def resolve_rollout_precision(
    cfg: RLTrainConfig, checkpoint: Checkpoint, device: torch.device, log: Callable[[str], None] = print
) -> str | None:
    """Resolve `rl.rollout_precision`: bf16, or None where samples are drawn in the precision of learning.

    For `auto` a resumed run keeps what it had.
    """
    key, requested = "rl.rollout_precision", cfg.rl.rollout_precision
    if requested is None:
        return None
    kept = keep_precision(requested, key, resumed_payload(cfg, checkpoint), log)
    chosen = choose_precision(kept, device, key, log)
    return None if chosen == "no" else chosen


def check_window(rl: RLConfig) -> None:
    """Raise ValueError with the time grid when rl.window contains no step that can be trained."""
    if find_algorithm(rl.algorithm).uses_window(rl):
        trainable_steps(rollout_grid(rl), rl)


def build_best(cfg: RLTrainConfig, log: Callable[[str], None] = print) -> Best | None:
    """Build the record of the best validation; None without eval.every_updates, or if all recognizers are rewards.

    The latter is said, and that the speaker judge is a reward. Raises ConfigError if the run is to end by a judge that
    it does not have.
    """
    if not cfg.eval.every_updates:
        return None
    judge, names = selecting_judge(cfg), [entry.name for entry in cfg.eval.recognisers]
    if is_reward(cfg.eval.speaker.name, rewarded(cfg.rl.rewards.providers)):
        log(
            f"warning: eval.speaker={cfg.eval.speaker.name} is a reward of this run, so eval/sim may rise while the "
            "voice gets worse; take another one, e.g. eval.speaker=resemblyzer or eval.speaker=wavlm"
        )
    if judge is not None:
        return Best(judge, full_name(cfg.eval.speaker.name))
    reason = describe_rewarded(names, rewarded(cfg.rl.rewards.providers))
    if cfg.rl.stop_when is not None:
        raise ConfigError(f"rl.stop_when={cfg.rl.stop_when} needs a judge that is no reward; {reason}")
    log(f"warning: {reason}")
    return None


def selecting_judge(cfg: RLTrainConfig) -> str | None:
    """Return the error rate that selects (`selecting_metric`); None if all recognizers are rewards."""
    return selecting_metric([entry.name for entry in cfg.eval.recognisers], cfg.rl.rewards.providers)


def build_alarms(cfg: RLTrainConfig) -> dict[str, AlarmFn]:
    """Select the alarms that apply to this run.

    no_spread does where samples of a group are compared, reward_hacked where a judge is no reward. less_natural reads
    the first recognizer where all are rewards. The KL to a reference of another guidance has no limit.
    """
    rl, judge = cfg.rl, selecting_judge(cfg)
    compares = group_size(rl) > 1 and not find_algorithm(rl.algorithm).uses_reward_gradients
    applies = {"no_spread": compares, "reward_hacked": judge is not None}
    kl_limit = MAX_KL if rl.ref_cfg_strength is None else math.inf
    settings = {
        "kl_out_of_range": partial(kl_out_of_range, limit=kl_limit),
        "reward_hacked": partial(reward_hacked, judge=judge or ""),
        "less_natural": partial(less_natural, judge=judge or f"{metric_prefix(cfg.eval.recognisers[0].name)}/wer"),
    }
    return {name: settings.get(name, alarm) for name, alarm in ALARMS.items() if applies.get(name, True)}


def describe_rollouts(cfg: RLTrainConfig, num_items: int, world_size: int) -> str:
    """Describe in one line what an update draws.

    Raises ValueError when the data set has too few items for one update.
    """
    rl, datasets = cfg.rl, cfg.datasets
    batches, size = cfg.optim.grad_accumulation_steps * world_size, group_size(rl)
    on = f"on {world_size} process{'es' if world_size > 1 else ''}"
    if datasets.batch_size_type == "frame":
        of_prompts = "1 batch" if batches == 1 else f"{batches} batches"
        return f"{rl.algorithm}: {of_prompts} of prompts x {size} samples per update, {on}"
    prompts = datasets.batch_size_per_gpu * batches
    if prompts > num_items:
        raise ValueError(
            f"an update needs datasets.batch_size_per_gpu={datasets.batch_size_per_gpu} x optim.grad_accumulation_steps"
            f"={cfg.optim.grad_accumulation_steps} x {world_size} processes = {prompts} prompts, and the data set has "
            f"{num_items}: lower one of them"
        )
    return (
        f"{rl.algorithm}: {prompts} prompts x {size} samples = {prompts * size} rollouts per update, "
        f"{datasets.batch_size_per_gpu * rl.mini_repeat_count} per forward, {on}"
    )
