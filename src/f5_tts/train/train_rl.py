"""Stage 2: `python -m f5_tts.train.train_rl key=value ...` (config F5TTS_RL unless -cn says another)."""

from __future__ import annotations

import sys

from f5_tts.config.load import load_run
from f5_tts.config.schema import RLRunConfig
from f5_tts.entrypoint import command
from f5_tts.rl.grpo import GRPOLoss, draw_experience
from f5_tts.train.accelerator import build_accelerator
from f5_tts.train.build import epoch_at
from f5_tts.train.build_rl import build_alarms, build_exam
from f5_tts.train.distributed import Together
from f5_tts.train.loop import Run, fit, nothing_due
from f5_tts.train.metrics_log import Report
from f5_tts.train.sample_log import Scored
from f5_tts.train.stage2 import Stage2, build_stage2, prompt_batches
from f5_tts.train.validation import Validation


def train_rl(run: RLRunConfig) -> bool:
    """Train by GRPO from what ckpts.save_dir holds, else ckpts.init_from; False when stopped early.

    Raises FileNotFoundError when there is no checkpoint: RL starts from a model that speaks.
    """
    stage2 = build_stage2(run, build_accelerator(run.optim))
    policy, reference, old, state = stage2.models
    scorer, best, checkpoints = stage2.scorer, stage2.best, stage2.checkpoints
    is_main, peers = stage2.accelerator.is_main_process, Together(stage2.accelerator)
    updates = prompt_batches(stage2, run)
    exam = build_exam(run, stage2.vocabulary, scorer.vocoder) if best and is_main else None
    report = build_report(stage2, run)
    validation = Validation(exam, run.eval.every_updates, best, checkpoints, report.say) if exam and best else None
    return fit(
        state,
        policy,
        draw_experience(policy, updates, scorer, stage2.advantage, run.rl, old=old, peers=peers),
        GRPOLoss(run.rl, reference, old),
        Run(
            accelerator=stage2.accelerator,
            checkpoints=checkpoints,
            report=report,
            optim=run.optim,
            total=stage2.total,
            together=run.rl.updates_per_rollout,
        ),
        validate=validation or nothing_due,
        listen=Scored(scorer.vocoder, run.model.mel_spec) if run.ckpts.log_samples and is_main else None,
    )


def build_report(stage2: Stage2, run: RLRunConfig) -> Report:
    """Build the log of metrics, with alarms and a tracker; ranks other than the main one write nothing."""
    world = stage2.accelerator.num_processes
    return Report(
        stage2.checkpoints.path,
        first=stage2.models.state.update,
        total=stage2.total,
        title=run.rl.algorithm,
        writes=stage2.accelerator.is_main_process,
        alarms=build_alarms(run.rl),
        epoch=epoch_at(stage2.plan, run.optim, run.rl.updates_per_rollout, world),
        tracker=stage2.tracker,
    )


def main(argv: list[str]) -> bool:
    return train_rl(load_run(argv, default="F5TTS_RL", schema=RLRunConfig))


if __name__ == "__main__":
    command(main, sys.argv[1:])
