"""Stage 2: `python -m f5_tts.train.train_rl key=value ...` (config F5TTS_RL unless -cn names another)."""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("train-rl")

from collections.abc import Callable

from f5_tts.config.schema import RLTrainConfig
from f5_tts.report.render import report_run
from f5_tts.report.run_record import write_record
from f5_tts.rl.grpo import PolicyLoss, collect_experience
from f5_tts.train import build_eval
from f5_tts.train.accelerator import build_accelerator
from f5_tts.train.build import batches_of_updates, epoch_counter
from f5_tts.train.build_rl import build_alarms
from f5_tts.train.checkpoint_dir import explain_write_errors
from f5_tts.train.distributed import AllRanks
from f5_tts.train.ending import describe_end
from f5_tts.train.flags import stage_2
from f5_tts.train.loop import LoopContext, fit, no_validation
from f5_tts.train.metrics_log import MetricsLog
from f5_tts.train.run_settings import DATA_SET
from f5_tts.train.sample_log import RolloutSamples
from f5_tts.train.stage2 import Stage2, build_stage2
from f5_tts.train.validation import Validation

STOP_ALARMS = {"judge_worse": "reward_hacked"}  # rl.stop_when -> the alarm that ends the run


def train_rl(cfg: RLTrainConfig) -> bool:
    """Train by reinforcement learning from the checkpoint in ckpts.save_dir, else from ckpts.init_from.

    Returns False when the user stopped the run early. Raises FileNotFoundError when there is no checkpoint: stage 2
    starts from a trained model.
    """
    stage2 = build_stage2(cfg, build_accelerator(cfg))
    policy, reference, old_policy, state = stage2.models
    scorer, ranks = stage2.scorer, AllRanks(stage2.accelerator)
    updates = batches_of_updates(stage2.plan, stage2.vocabulary, cfg.optim, state, stage2.accelerator)
    metrics_log, is_main = build_metrics_log(stage2, cfg), stage2.accelerator.is_main_process
    log_samples = cfg.ckpts.log_samples and is_main
    experience = collect_experience(
        policy, updates, scorer, stage2.advantage, cfg.rl, old_policy=old_policy, ranks=ranks, update=state.update
    )
    folder = stage2.checkpoints.path
    with explain_write_errors(folder):
        if is_main:
            write_record(folder, cfg, state.settings[DATA_SET])
    finished = fit(
        state,
        policy,
        experience,
        PolicyLoss(cfg.rl, reference, old_policy),
        build_loop_context(stage2, cfg, metrics_log),
        validate=build_validation(stage2, cfg, metrics_log.write_line, ranks) or no_validation,
        make_samples=RolloutSamples(scorer.vocoder, cfg.model.mel_spec) if log_samples else None,
    )
    if finished and is_main:
        print(f"{report_run(folder)}\n{describe_end(cfg)}")
    return finished


def build_loop_context(stage2: Stage2, cfg: RLTrainConfig, metrics_log: MetricsLog) -> LoopContext:
    """Build what the training loop needs besides the models."""
    return LoopContext(
        accelerator=stage2.accelerator,
        checkpoints=stage2.checkpoints,
        metrics_log=metrics_log,
        optim=cfg.optim,
        total=stage2.total,
        updates_per_rollout=cfg.rl.updates_per_rollout,
        stop_alarm=None if cfg.rl.stop_when is None else STOP_ALARMS[cfg.rl.stop_when],
    )


def build_validation(
    stage2: Stage2, cfg: RLTrainConfig, log: Callable[[str], None], ranks: AllRanks
) -> Validation | None:
    """Build the validation on held-out items; None for a run without."""
    if stage2.judges is None:
        return None
    return build_eval.build_validation(
        cfg,
        stage2.plan,
        stage2.judges,
        stage2.vocabulary,
        stage2.scorer.vocoder,
        stage2.checkpoints,
        log,
        ranks,
        best=stage2.best,
        cfg_strength=cfg.rl.cfg_strength,
        start_guidance=cfg.rl.ref_cfg_strength,
    )


def build_metrics_log(stage2: Stage2, cfg: RLTrainConfig) -> MetricsLog:
    """Build the log of metrics, with alarms and a tracker; ranks other than the main one write nothing."""
    state, epoch = stage2.models.state, epoch_counter(stage2.plan)
    return MetricsLog(
        stage2.checkpoints.path,
        first=state.update,
        total=stage2.total,
        title=cfg.rl.algorithm,
        writes=stage2.accelerator.is_main_process,
        alarms=build_alarms(cfg),
        epoch=lambda: epoch(state.position.batches),
        tracker=stage2.tracker,
    )


def main(argv: list[str]) -> bool:
    """Compose the config from the command line and train stage 2; return False when stopped early."""
    return train_rl(stage_2(argv))
