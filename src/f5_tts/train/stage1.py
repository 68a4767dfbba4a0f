"""Assembly of stage 1: data, model, state and validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from accelerate import Accelerator

from f5_tts.config.checks import raise_together
from f5_tts.config.schema import TrainConfig, vocab_path
from f5_tts.data.batching import BatchPlan
from f5_tts.data.tokenizer import Vocabulary, build_vocabulary, require_space
from f5_tts.eval.judges import Judges
from f5_tts.model.cfm import CFM
from f5_tts.model.checkpoint import Checkpoint
from f5_tts.train.accelerator import prepare_model
from f5_tts.train.auto_validation import describe_validation, plan_with_validation
from f5_tts.train.build import (
    build_stage1_model,
    build_train_state,
    check_vocabulary,
    count_updates,
    init_bias_to_mean_mel,
)
from f5_tts.train.build_eval import build_stage1_best
from f5_tts.train.checkpoint_dir import CheckpointDir, origin_of
from f5_tts.train.distributed import AllRanks
from f5_tts.train.loop import register_grad_scaler
from f5_tts.train.optimizer import check_schedule, choose_optimizer
from f5_tts.train.run_settings import describe_rows
from f5_tts.train.trackers import Tracker, build_tracker
from f5_tts.train.train_state import TrainState
from f5_tts.train.validation import Best


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage1:
    """All objects of a run of stage 1."""

    accelerator: Accelerator
    checkpoints: CheckpointDir
    tracker: Tracker | None  # on the main rank only
    plan: BatchPlan
    judges: Judges | None  # of its validations; None where it has none
    vocabulary: Vocabulary
    total: int  # number of updates
    policy: CFM  # as prepared by the accelerator
    state: TrainState
    best: Best | None  # the best validation so far; None without eval.every_updates


def build_stage1(cfg: TrainConfig, accelerator: Accelerator) -> Stage1:
    """Build a run of stage 1, and resume it from its checkpoint where there is one."""
    is_main, world_size, log = accelerator.is_main_process, accelerator.num_processes, accelerator.print
    checkpoints = CheckpointDir(cfg.ckpts, is_main, cfg.optim.shard)
    checkpoints.prepare()
    make_optimizer = choose_optimizer(cfg.optim, accelerator.device, log)
    tracker = build_tracker(cfg) if is_main else None
    checkpoint, vocabulary = checkpoints.find_latest(pretrained=True), build_vocabulary(cfg)
    plan, judges = plan_with_validation(cfg, checkpoint, AllRanks(accelerator), log)
    total = count_updates(plan, cfg.optim, world_size=world_size)
    raise_together(
        lambda: check_schedule(cfg.optim, total),
        lambda: checkpoint and check_vocabulary(checkpoint, cfg, vocabulary),
    )
    model = build_initial_model(cfg, vocabulary, checkpoint, plan, log)
    policy = prepare_model(model, accelerator)
    state = build_train_state(cfg, model, vocabulary, total, make_optimizer, world_size)
    best = build_stage1_best(cfg)
    state.settings |= describe_rows(plan.dataset.rows)
    state.validation = describe_validation(cfg)
    state.stateful = {} if best is None else {"best": best}
    register_grad_scaler(state, accelerator)
    if checkpoint is not None:
        state.resume(checkpoint, log)
        if cfg.lora.rank:
            state.initial_weights = origin_of(checkpoint, cfg.model.objective)
            checkpoints.save_initial_weights(state)
    return Stage1(
        accelerator=accelerator,
        checkpoints=checkpoints,
        tracker=tracker,
        plan=plan,
        judges=judges,
        vocabulary=vocabulary,
        total=total,
        policy=policy,
        state=state,
        best=best,
    )


def build_initial_model(
    cfg: TrainConfig,
    vocabulary: Vocabulary,
    checkpoint: Checkpoint | None,
    plan: BatchPlan,
    log: Callable[[str], None],
) -> CFM:
    """Build the model with the weights of a checkpoint, else random ones whose output has the data's mean mel."""
    model = build_stage1_model(cfg, vocabulary, checkpoint, log)
    if checkpoint is None:
        require_space(vocabulary, f"vocabulary {vocab_path(cfg)}")
        log(f"no checkpoint in {cfg.ckpts.save_dir}: training from random weights")
        init_bias_to_mean_mel(model, plan)
    return model
