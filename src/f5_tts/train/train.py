"""Stage 1, or plain training: `python -m f5_tts.train.train -cn F5TTS_v1_Base key=value ...`."""

from __future__ import annotations

import sys

from f5_tts.config.load import load_run
from f5_tts.config.schema import RunConfig
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.entrypoint import command
from f5_tts.model.build import build_vocoder
from f5_tts.train.accelerator import build_accelerator, prepare
from f5_tts.train.build import (
    build_batches,
    build_learner,
    build_plan,
    build_trainable,
    count_updates,
    epoch_at,
    lists_of,
    start_at_mean,
)
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.infilling import InfillingLoss
from f5_tts.train.loop import Run, fit, keep_scale
from f5_tts.train.metrics_log import Report
from f5_tts.train.optimizer import check_length, choose_optimizer
from f5_tts.train.sample_log import Continued
from f5_tts.train.trackers import build_tracker


def train(run: RunConfig) -> bool:
    """Train by velocity MSE or Gaussian NLL; resumes what ckpts.save_dir holds. False when stopped early."""
    accelerator = build_accelerator(run.optim)
    is_main = accelerator.is_main_process
    checkpoints = CheckpointDir(run.ckpts, is_main, run.optim.shard)
    checkpoints.prepare()
    make_optimizer = choose_optimizer(run.optim, accelerator.device)
    tracker = build_tracker(run) if is_main else None
    plan, vocabulary = build_plan(run), build_vocabulary(run)
    world, spec = accelerator.num_processes, run.model.mel_spec
    total = count_updates(plan, run.optim, world=world)
    check_length(run.optim, total)
    checkpoint = checkpoints.newest(pretrained=True)
    model = build_learner(run, vocabulary)
    if checkpoint is None:
        print(f"no checkpoint in {checkpoints.path}: training from random weights")
        start_at_mean(model, plan)
    policy = prepare(model, accelerator)
    trainable = build_trainable(run, model, vocabulary, total, make_optimizer, world)
    keep_scale(trainable, accelerator)
    if checkpoint is not None:
        trainable.resume(checkpoint)
    batches = build_batches(plan, vocabulary, run.optim, trainable.update, accelerator, trainable.bad_rows)
    place = {"first": trainable.update, "total": total, "title": run.model.objective, "writes": is_main}
    report = Report(checkpoints.path, **place, epoch=epoch_at(plan, run.optim, world=world), tracker=tracker)
    heard = run.ckpts.log_samples and is_main
    return fit(
        trainable,
        policy.train(),
        lists_of(run.optim.grad_accumulation_steps, batches),
        InfillingLoss(run.model),
        Run(accelerator=accelerator, checkpoints=checkpoints, report=report, optim=run.optim, total=total),
        listen=Continued(vocabulary, build_vocoder(run.model), run.infer, spec) if heard else None,
    )


def main(argv: list[str]) -> bool:
    return train(load_run(argv, default="F5TTS_v1_Base", schema=RunConfig))


if __name__ == "__main__":
    command(main, sys.argv[1:])
