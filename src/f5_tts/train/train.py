"""Stage 1, or plain training: `python -m f5_tts.train.train -cn F5TTS_v1_Base key=value ...`."""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("train")

from collections.abc import Callable

from f5_tts.config.schema import TrainConfig
from f5_tts.model.build import build_vocoder
from f5_tts.report.run_record import write_record
from f5_tts.train import build_eval
from f5_tts.train.accelerator import build_accelerator
from f5_tts.train.build import batches_of_updates, epoch_counter
from f5_tts.train.checkpoint_dir import explain_write_errors
from f5_tts.train.distributed import AllRanks
from f5_tts.train.ending import describe_end
from f5_tts.train.flags import stage_1
from f5_tts.train.infilling import InfillingLoss
from f5_tts.train.loop import LoopContext, fit, no_validation
from f5_tts.train.metrics_log import MetricsLog
from f5_tts.train.run_settings import DATA_SET
from f5_tts.train.sample_log import ContinuationSamples
from f5_tts.train.stage1 import Stage1, build_stage1
from f5_tts.train.validation import Validation


def train(cfg: TrainConfig) -> bool:
    """Train by velocity MSE or Gaussian NLL; resume from ckpts.save_dir where it holds a checkpoint.

    Returns False when the user stopped the run early.
    """
    stage1 = build_stage1(cfg, build_accelerator(cfg))
    state, checkpoints, is_main = stage1.state, stage1.checkpoints, stage1.accelerator.is_main_process
    with explain_write_errors(checkpoints.path):
        if is_main:
            write_record(checkpoints.path, cfg, state.settings[DATA_SET])
    metrics_log = build_metrics_log(stage1, cfg)
    finished = fit(
        state,
        stage1.policy.train(),
        batches_of_updates(stage1.plan, stage1.vocabulary, cfg.optim, state, stage1.accelerator),
        InfillingLoss(cfg.model),
        LoopContext(
            accelerator=stage1.accelerator,
            checkpoints=checkpoints,
            metrics_log=metrics_log,
            optim=cfg.optim,
            total=stage1.total,
        ),
        validate=build_validation(stage1, cfg, metrics_log.write_line) or no_validation,
        make_samples=build_samples(stage1, cfg) if cfg.ckpts.log_samples and is_main else None,
    )
    if finished and is_main:
        print(describe_end(cfg))
    return finished


def build_metrics_log(stage1: Stage1, cfg: TrainConfig) -> MetricsLog:
    """Build the log of metrics, with a tracker; ranks other than the main one write nothing."""
    state, epoch = stage1.state, epoch_counter(stage1.plan)
    return MetricsLog(
        stage1.checkpoints.path,
        first=state.update,
        total=stage1.total,
        title=cfg.model.objective,
        writes=stage1.accelerator.is_main_process,
        epoch=lambda: epoch(state.position.batches),
        tracker=stage1.tracker,
    )


def build_validation(stage1: Stage1, cfg: TrainConfig, log: Callable[[str], None]) -> Validation | None:
    """Build the validation on held-out items; None for a run without."""
    if stage1.judges is None:
        return None
    return build_eval.build_validation(
        cfg,
        stage1.plan,
        stage1.judges,
        stage1.vocabulary,
        build_vocoder(cfg.model),
        stage1.checkpoints,
        log,
        AllRanks(stage1.accelerator),
        best=stage1.best,
        cfg_strength=cfg.infer.cfg_strength,
    )


def build_samples(stage1: Stage1, cfg: TrainConfig) -> ContinuationSamples:
    """Build what speaks the samples that lie beside checkpoints."""
    return ContinuationSamples(stage1.vocabulary, build_vocoder(cfg.model), cfg.infer, cfg.model.mel_spec)


def main(argv: list[str]) -> bool:
    """Compose the config from the command line and train; return False when stopped early."""
    return train(stage_1(argv))
