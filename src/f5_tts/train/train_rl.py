"""Stage 2: `python -m f5_tts.train.train_rl key=value ...` (config F5TTS_RL unless -cn says another)."""

from __future__ import annotations

import sys

import torch

from f5_tts.command import command
from f5_tts.config import RLRunConfig, group_size, load_run
from f5_tts.model.build import build_model
from f5_tts.rl.grpo import GRPOLoss, draw_experience
from f5_tts.train.build import (
    build_accelerator,
    build_batches,
    build_plan,
    build_scorer,
    build_trainable,
    build_vocabulary,
    count_updates,
)
from f5_tts.train.loop import fit
from f5_tts.train.report import Report
from f5_tts.train.state import CheckpointDir


def train_rl(run: RLRunConfig) -> bool:
    """Train by GRPO from what ckpts.save_dir holds; False when stopped early.

    Raises FileNotFoundError when the folder has no checkpoint: RL starts from a model that speaks.
    """
    checkpoints = CheckpointDir(run.ckpts)
    checkpoints.prepare()
    plan, vocabulary = build_plan(run), build_vocabulary(run)
    checkpoint = checkpoints.start(run.rl.algorithm)
    total = count_updates(plan, run.optim)
    torch.manual_seed(run.optim.seed)
    model = build_model(run.model, vocabulary).eval()  # no dropout, neither drawing nor learning
    trainable = build_trainable(run, model, vocabulary, total)
    trainable.resume(checkpoint)
    reference = checkpoints.reference(trainable) if run.rl.kl_weight > 0 else None
    scorer = build_scorer(run.model, run.rl)
    prompts, size = run.datasets.batch_size_per_gpu, group_size(run.rl)
    print(
        f"{run.rl.algorithm}: {prompts} prompts x {size} samples = {prompts * size} rollouts per update, "
        f"{prompts * run.rl.mini_repeat_count} per forward"
    )
    accelerator = build_accelerator(run.optim)
    policy = accelerator.prepare(model)
    batches = build_batches(plan, vocabulary, run.optim, trainable.update)
    on_device = (batch.to(accelerator.device) for batch in batches)
    return fit(
        trainable,
        policy,
        draw_experience(policy, on_device, scorer, run.rl),
        GRPOLoss(reference and accelerator.prepare(reference), run.rl),
        accelerator=accelerator,
        checkpoints=checkpoints,
        report=Report(checkpoints.path, first=trainable.update, total=total, title=run.rl.algorithm),
        optim=run.optim,
        total=total,
    )


def main(argv: list[str]) -> bool:
    return train_rl(load_run(argv, default="F5TTS_RL", schema=RLRunConfig))


if __name__ == "__main__":
    command(main, sys.argv[1:])
