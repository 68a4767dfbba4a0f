"""Builders of a run's validation, in both stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from f5_tts.config.schema import TrainConfig
from f5_tts.data.batching import BatchPlan
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.eval.evaluator import EvalSynthesizer, Evaluator
from f5_tts.eval.judges import build_judges, check_judges
from f5_tts.eval.lists import read_list
from f5_tts.eval.test_set import EvalItem, read_items, unseen_speakers
from f5_tts.model.mel import LogMel
from f5_tts.rewards.registry import full_name
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.distributed import AllRanks
from f5_tts.train.held_out import HELD_OUT, items_of
from f5_tts.train.validation import Best, Validation, selecting_metric
from f5_tts.types import Vocoder


def build_evaluator(
    cfg: TrainConfig, items: list[EvalItem], vocabulary: Vocabulary, vocoder: Vocoder, cfg_strength: float
) -> Evaluator:
    """Build the evaluator of these items; raise ValueError if a judge cannot judge them."""
    judges = build_judges(cfg.eval)
    check_judges(judges, items, cfg.eval)
    mel = LogMel(cfg.model.mel_spec)
    return Evaluator(
        items=items * cfg.eval.dev_takes,
        synthesizer=EvalSynthesizer(mel=mel, vocoder=vocoder, vocabulary=vocabulary, settings=cfg.eval),
        judges=judges,
        cfg_strength=cfg_strength,
    )


def dev_items(cfg: TrainConfig, plan: BatchPlan) -> list[EvalItem]:
    """Return the items of a validation: held-out rows, those of a list, or those of unseen speakers in dev.jsonl."""
    if cfg.eval.dev == HELD_OUT:
        return items_of(plan.held_out, cfg.eval.dev_items)
    if cfg.eval.dev is not None:
        return read_list(Path(cfg.eval.dev), recordings_folder(cfg))
    path = Path(cfg.eval.items_dir) / "dev.jsonl"
    return unseen_speakers(read_items(path), path)


def recordings_folder(cfg: TrainConfig) -> Path | None:
    """Return the folder of the recordings of a LibriSpeech-PC list."""
    return Path(cfg.eval.recordings) if cfg.eval.recordings else None


def build_validation(
    cfg: TrainConfig,
    plan: BatchPlan,
    vocabulary: Vocabulary,
    vocoder: Vocoder,
    checkpoints: CheckpointDir,
    log: Callable[[str], None],
    ranks: AllRanks,
    *,
    best: Best | None,
    cfg_strength: float,
    start_guidance: float | None = None,
) -> Validation:
    """Build the validation of a run, with that of a second list (eval.forgot) beside it; all ranks call this."""
    forgot = None
    with ranks.raise_on_all_ranks():
        evaluator = build_evaluator(cfg, dev_items(cfg, plan), vocabulary, vocoder, cfg_strength)
        if cfg.eval.forgot is not None:
            items = read_list(Path(cfg.eval.forgot), recordings_folder(cfg))
            forgot = build_evaluator(cfg, items, vocabulary, vocoder, cfg_strength)
    return Validation(
        evaluator,
        cfg.eval.every_updates,
        best,
        checkpoints,
        log,
        ranks,
        start_guidance=start_guidance,
        forgot=forgot,
    )


def build_stage1_best(cfg: TrainConfig) -> Best | None:
    """Build the record of the best validation of stage 1, which has no rewards; None without eval.every_updates."""
    judge = selecting_metric([entry.name for entry in cfg.eval.recognisers], [])
    assert judge is not None, "without rewards, every recognizer may select"
    return Best(judge, full_name(cfg.eval.speaker.name)) if cfg.eval.every_updates else None
