"""Stage 2: `python -m f5_tts.train.train_rl key=value ...` (config F5TTS_RL unless -cn says another)."""

from __future__ import annotations

import sys

from f5_tts.config.load import load_run
from f5_tts.config.schema import RLRunConfig
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.entrypoint import command
from f5_tts.rl.grpo import GRPOLoss, draw_experience
from f5_tts.train.accelerator import build_accelerator, prepare
from f5_tts.train.build import build_batches, build_plan, build_trainable, count_updates, epoch_at, lists_of
from f5_tts.train.build_rl import (
    build_alarms,
    build_comparison,
    build_exam,
    build_old_policy,
    build_policy,
    build_reference,
    build_scorer,
    check_window,
    chosen_algorithm,
    is_kept,
    rollout_plan,
)
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.distributed import Together
from f5_tts.train.loop import Run, fit, keep_scale, nothing_due
from f5_tts.train.metrics_log import Report
from f5_tts.train.optimizer import check_length, choose_optimizer
from f5_tts.train.sample_log import Scored
from f5_tts.train.trackers import build_tracker
from f5_tts.train.validation import Best, Validation


def train_rl(run: RLRunConfig) -> bool:
    """Train by GRPO from what ckpts.save_dir holds, else ckpts.init_from; False when stopped early.

    Raises FileNotFoundError when there is no checkpoint: RL starts from a model that speaks.
    """
    rl, accelerator = run.rl, build_accelerator(run.optim)
    is_main = accelerator.is_main_process
    checkpoints = CheckpointDir(run.ckpts, is_main, run.optim.shard)
    checkpoints.prepare()
    make_optimizer = choose_optimizer(run.optim, accelerator.device)
    tracker = build_tracker(run) if is_main else None
    plan, vocabulary = build_plan(run), build_vocabulary(run)
    checkpoint = checkpoints.start()
    rl.algorithm = chosen_algorithm(rl.algorithm, checkpoint)
    check_window(rl)
    world, uses = accelerator.num_processes, rl.updates_per_rollout
    print(rollout_plan(run, len(plan.frames(0)), world))
    total = count_updates(plan, run.optim, uses, world)
    check_length(run.optim, total)
    scorer = build_scorer(run.model, rl)  # before the model: what is wrong with a reward should be said soon
    model = build_policy(run, vocabulary, checkpoints.origin(checkpoint))
    policy = prepare(model, accelerator)
    trainable = build_trainable(run, model, vocabulary, total, make_optimizer, world)
    reference, old = build_reference(model, rl), build_old_policy(model, rl)
    compare = build_comparison(scorer, rl)
    best = Best() if run.eval.every_updates else None
    memories = ("old_policy", old), ("baseline", compare), ("best", best)
    trainable.extras = {name: part for name, part in memories if is_kept(part)}
    keep_scale(trainable, accelerator)
    trainable.lora = run.lora
    trainable.resume(checkpoint)
    checkpoints.keep_origin(trainable)
    batches = build_batches(plan, vocabulary, run.optim, trainable.update // uses, accelerator, trainable.bad_rows)
    updates = lists_of(run.optim.grad_accumulation_steps, batches)
    exam = build_exam(run, vocabulary, scorer.vocoder) if best and is_main else None
    place = {"first": trainable.update, "total": total, "title": rl.algorithm, "writes": is_main}
    epoch = epoch_at(plan, run.optim, uses, world)
    report = Report(checkpoints.path, **place, alarms=build_alarms(rl), epoch=epoch, tracker=tracker)
    validation = Validation(exam, run.eval.every_updates, best, checkpoints, report.say) if exam and best else None
    return fit(
        trainable,
        policy,
        draw_experience(policy, updates, scorer, compare, rl, old=old, peers=Together(accelerator)),
        GRPOLoss(rl, reference, old),
        Run(
            accelerator=accelerator,
            checkpoints=checkpoints,
            report=report,
            optim=run.optim,
            total=total,
            together=uses,
        ),
        validate=validation or nothing_due,
        listen=Scored(scorer.vocoder, run.model.mel_spec) if run.ckpts.log_samples and is_main else None,
    )


def main(argv: list[str]) -> bool:
    return train_rl(load_run(argv, default="F5TTS_RL", schema=RLRunConfig))


if __name__ == "__main__":
    command(main, sys.argv[1:])
