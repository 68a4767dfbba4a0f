"""Assembly of stage 2: data, algorithm, rewards, models and state, for training and for the doctor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from accelerate import Accelerator

from f5_tts.config.checks import raise_together
from f5_tts.config.schema import RLTrainConfig
from f5_tts.data.batching import BatchPlan
from f5_tts.data.tokenizer import Vocabulary, build_vocabulary
from f5_tts.eval.judges import Judges
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import Checkpoint
from f5_tts.model.snapshot import Snapshot
from f5_tts.rewards.registry import check_words
from f5_tts.rl.advantage import GroupAdvantage, RunningBaseline
from f5_tts.rl.algorithms import find_algorithm
from f5_tts.rl.nft import EmaPolicy
from f5_tts.rl.scoring import RewardScorer
from f5_tts.train.accelerator import prepare_model
from f5_tts.train.auto_validation import describe_validation, plan_with_validation
from f5_tts.train.build import build_train_state, check_vocabulary, count_updates
from f5_tts.train.build_rl import (
    build_advantage,
    build_best,
    build_policy,
    build_reference,
    build_scorer,
    check_window,
    describe_rollouts,
    resolve_algorithm,
    resolve_rollout_precision,
)
from f5_tts.train.checkpoint_dir import CheckpointDir, initial_weights, origin_of
from f5_tts.train.distributed import AllRanks
from f5_tts.train.loop import register_grad_scaler
from f5_tts.train.optimizer import MakeOptimizer, check_schedule, choose_optimizer
from f5_tts.train.run_settings import describe_rows
from f5_tts.train.trackers import Tracker, build_tracker
from f5_tts.train.train_state import Stateful, TrainState
from f5_tts.train.validation import Best


class PolicyModels(NamedTuple):
    """Models of stage 2, and the state of them that a checkpoint holds."""

    policy: CFM  # as prepared by the accelerator
    reference: Snapshot | None
    old_policy: EmaPolicy | None
    state: TrainState


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage2:
    """All objects of a run of stage 2."""

    accelerator: Accelerator
    checkpoints: CheckpointDir
    tracker: Tracker | None  # on the main rank only
    plan: BatchPlan
    judges: Judges | None  # of its validations; None where it has none
    vocabulary: Vocabulary
    total: int  # number of updates
    scorer: RewardScorer
    advantage: GroupAdvantage | RunningBaseline | None  # None where the algorithm compares no samples
    models: PolicyModels
    best: Best | None  # the best validation so far; None without eval.every_updates


def build_stage2(cfg: RLTrainConfig, accelerator: Accelerator) -> Stage2:
    """Build a run of stage 2 and resume it from its checkpoint.

    Rewards are built before the models, which take longer, so that a wrong setting of a reward is reported early.
    Raises FileNotFoundError when there is no checkpoint: stage 2 starts from a trained model.
    """
    is_main, world_size, log = accelerator.is_main_process, accelerator.num_processes, accelerator.print
    checkpoints = CheckpointDir(cfg.ckpts, is_main, cfg.optim.shard)
    checkpoints.prepare()
    make_optimizer = choose_optimizer(cfg.optim, accelerator.device, log)
    tracker = build_tracker(cfg) if is_main else None
    checkpoint = find_start(cfg, checkpoints, accelerator, log)
    plan, judges = plan_with_validation(cfg, checkpoint, AllRanks(accelerator), log)
    vocabulary = build_vocabulary(cfg)
    log(describe_rollouts(cfg, len(plan.frames(0)), world_size))
    total = count_updates(plan, cfg.optim, cfg.rl.updates_per_rollout, world_size)
    *_, scorer = raise_together(
        lambda: check_window(cfg.rl),
        lambda: check_schedule(cfg.optim, total),
        lambda: check_vocabulary(checkpoint, cfg, vocabulary),
        lambda: build_checked_scorer(cfg, plan),
    )
    initial = initial_weights(checkpoint, cfg.model.objective)
    models = build_models(cfg, initial, vocabulary, total, make_optimizer, accelerator, log)
    advantage = build_advantage(scorer, cfg.rl, log)
    best = build_best(cfg, log)
    models.state.stateful |= {
        name: component
        for name, component in (("baseline", advantage), ("best", best))
        if isinstance(component, Stateful)
    }
    models.state.settings |= describe_rows(plan.dataset.rows)
    models.state.validation = describe_validation(cfg)
    models.state.resume(checkpoint, log)
    models.state.initial_weights = origin_of(checkpoint, cfg.model.objective)
    checkpoints.save_initial_weights(models.state)
    return Stage2(
        accelerator=accelerator,
        checkpoints=checkpoints,
        tracker=tracker,
        plan=plan,
        judges=judges,
        vocabulary=vocabulary,
        total=total,
        scorer=scorer,
        advantage=advantage,
        models=models,
        best=best,
    )


def build_checked_scorer(cfg: RLTrainConfig, plan: BatchPlan) -> RewardScorer:
    """Build the rewards; raise ValueError for a recognizer that knows too few words for the texts."""
    scorer = build_scorer(cfg.model, cfg.rl)
    check_words(scorer.providers, [row.sentence for row in plan.dataset.rows], "rl.rewards.providers")
    return scorer


def find_start(
    cfg: RLTrainConfig, checkpoints: CheckpointDir, accelerator: Accelerator, log: Callable[[str], None] = print
) -> Checkpoint:
    """Find the checkpoint that the run starts or resumes from; replace rl.algorithm=auto and rl.rollout_precision=auto.

    All ranks take what rank 0 chooses.
    """
    start = checkpoints.find_start()
    cfg.rl.algorithm = resolve_algorithm(cfg.rl.algorithm, start, log)
    chosen = resolve_rollout_precision(cfg, start, accelerator.device, log)
    cfg.rl.rollout_precision = AllRanks(accelerator).gather_objects(chosen)[0]
    return start


def build_models(
    cfg: RLTrainConfig,
    initial: Checkpoint,
    vocabulary: Vocabulary,
    total: int,
    make_optimizer: MakeOptimizer,
    accelerator: Accelerator,
    log: Callable[[str], None] = print,
) -> PolicyModels:
    """Build the policy with the initial weights of stage 2, its state, its reference and its old policy.

    The state is built before the reference: with optim.shard it shards the model that the reference copies.
    """
    model = build_policy(cfg, vocabulary, initial, log)
    policy = prepare_model(model, accelerator)
    state = build_train_state(cfg, model, vocabulary, total, make_optimizer, accelerator.num_processes)
    reference = build_reference(model, cfg.rl, vocabulary, log)
    old_policy = find_algorithm(cfg.rl.algorithm).build_old_policy(model, cfg.rl)
    state.stateful = {} if old_policy is None else {"old_policy": old_policy}
    register_grad_scaler(state, accelerator)
    return PolicyModels(policy, reference, old_policy, state)
