"""Stage 1, or plain training: `python -m f5_tts.train.train -cn F5TTS_v1_Base key=value ...`."""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("train")

from f5_tts.config.checks import raise_together
from f5_tts.config.schema import TrainConfig, vocab_path
from f5_tts.data.tokenizer import build_vocabulary, require_space
from f5_tts.model.build import build_vocoder
from f5_tts.report.run_record import write_record
from f5_tts.train.accelerator import build_accelerator, prepare_model
from f5_tts.train.auto_validation import describe_validation, plan_with_validation
from f5_tts.train.build import (
    batches_of_updates,
    build_stage1_model,
    build_train_state,
    check_vocabulary,
    count_updates,
    epoch_counter,
    init_bias_to_mean_mel,
)
from f5_tts.train.build_eval import build_stage1_best, build_validation
from f5_tts.train.checkpoint_dir import CheckpointDir, explain_write_errors, origin_of
from f5_tts.train.distributed import AllRanks
from f5_tts.train.flags import stage_1
from f5_tts.train.infilling import InfillingLoss
from f5_tts.train.loop import LoopContext, fit, no_validation, register_grad_scaler
from f5_tts.train.metrics_log import MetricsLog
from f5_tts.train.optimizer import check_schedule, choose_optimizer
from f5_tts.train.run_settings import DATA_SET, describe_rows
from f5_tts.train.sample_log import ContinuationSamples
from f5_tts.train.trackers import build_tracker


def train(cfg: TrainConfig) -> bool:
    """Train by velocity MSE or Gaussian NLL; resume from ckpts.save_dir where it holds a checkpoint.

    Returns False when the user stopped the run early.
    """
    accelerator = build_accelerator(cfg.optim)
    is_main, log = accelerator.is_main_process, accelerator.print
    checkpoints = CheckpointDir(cfg.ckpts, is_main, cfg.optim.shard)
    checkpoints.prepare()
    make_optimizer = choose_optimizer(cfg.optim, accelerator.device, log)
    tracker = build_tracker(cfg) if is_main else None
    checkpoint = checkpoints.find_latest(pretrained=True)
    ranks, vocabulary = AllRanks(accelerator), build_vocabulary(cfg)
    plan, judges = plan_with_validation(cfg, checkpoint, ranks, log)
    world_size, spec = accelerator.num_processes, cfg.model.mel_spec
    total = count_updates(plan, cfg.optim, world_size=world_size)
    raise_together(
        lambda: check_schedule(cfg.optim, total),
        lambda: checkpoint and check_vocabulary(checkpoint, cfg, vocabulary),
    )
    model = build_stage1_model(cfg, vocabulary, checkpoint, log)
    if checkpoint is None:
        require_space(vocabulary, f"vocabulary {vocab_path(cfg)}")
        log(f"no checkpoint in {checkpoints.path}: training from random weights")
        init_bias_to_mean_mel(model, plan)
    policy = prepare_model(model, accelerator)
    state = build_train_state(cfg, model, vocabulary, total, make_optimizer, world_size)
    state.settings |= describe_rows(plan.dataset.rows)
    state.validation = describe_validation(cfg)
    if (best := build_stage1_best(cfg)) is not None:
        state.stateful["best"] = best
    register_grad_scaler(state, accelerator)
    if checkpoint is not None:
        state.resume(checkpoint, log)
        if cfg.lora.rank:
            state.initial_weights = origin_of(checkpoint, cfg.model.objective)
            checkpoints.save_initial_weights(state)
    with explain_write_errors(checkpoints.path):
        if is_main:
            write_record(checkpoints.path, cfg, state.settings[DATA_SET])
    epoch = epoch_counter(plan)
    log_settings = {"first": state.update, "total": total, "title": cfg.model.objective, "writes": is_main}
    metrics_log = MetricsLog(
        checkpoints.path, **log_settings, epoch=lambda: epoch(state.position.batches), tracker=tracker
    )
    makes_samples = cfg.ckpts.log_samples and is_main
    return fit(
        state,
        policy.train(),
        batches_of_updates(plan, vocabulary, cfg.optim, state, accelerator),
        InfillingLoss(cfg.model),
        LoopContext(
            accelerator=accelerator, checkpoints=checkpoints, metrics_log=metrics_log, optim=cfg.optim, total=total
        ),
        validate=build_validation(
            cfg,
            plan,
            judges,
            vocabulary,
            build_vocoder(cfg.model),
            checkpoints,
            metrics_log.write_line,
            ranks,
            best=best,
            cfg_strength=cfg.infer.cfg_strength,
        )
        if judges is not None
        else no_validation,
        make_samples=ContinuationSamples(vocabulary, build_vocoder(cfg.model), cfg.infer, spec)
        if makes_samples
        else None,
    )


def main(argv: list[str]) -> bool:
    """Compose the config from the command line and train; return False when stopped early."""
    return train(stage_1(argv))
