"""Builders of a run's validation, in both stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256

from f5_tts.config.reward_names import full_name, is_reward, rewarded
from f5_tts.config.schema import EvalConfig, RLTrainConfig, TrainConfig
from f5_tts.data.batching import BatchPlan
from f5_tts.data.quality import scan_row
from f5_tts.data.rows import Row
from f5_tts.data.texts import TextRules
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.eval.evaluator import EvalSynthesizer, Evaluator
from f5_tts.eval.judges import Judges, check_judges
from f5_tts.eval.results import metric_prefix
from f5_tts.eval.test_set import EvalItem, items_folder, read_items, unseen_speakers
from f5_tts.eval.texts import read_eval_list
from f5_tts.model.mel import LogMel
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.distributed import RanksOfRun
from f5_tts.train.held_out import HELD_OUT, items_of
from f5_tts.train.validation import Best, Validation, selecting_metric
from f5_tts.types import Vocoder

CONDITIONS = ("steps", "sway_sampling_coef", "seed", "normaliser", "simplify", "language")  # keys of eval


def build_evaluator(
    cfg: TrainConfig, items: list[EvalItem], synthesizer: EvalSynthesizer, judges: Judges, cfg_strength: float
) -> Evaluator:
    """Build the evaluator of these items; raise ValueError if a judge cannot judge them."""
    check_judges(judges, items, cfg.eval)
    items = items * cfg.eval.dev_takes
    return Evaluator(items=items, synthesizer=synthesizer, judges=judges, cfg_strength=cfg_strength)


def dev_items(cfg: TrainConfig, held_out: Sequence[Row], rules: TextRules) -> list[EvalItem]:
    """Return the items of a validation: held-out rows, or those of a list."""
    if cfg.eval.dev != HELD_OUT:
        return listed_items(cfg.eval)
    max_seconds = cfg.datasets.max_seconds
    return items_of(
        held_out,
        cfg.eval.dev_items,
        max_seconds,
        is_usable=lambda row: scan_row(row, max_seconds, rules).seconds is not None,
    )


def listed_items(settings: EvalConfig) -> list[EvalItem]:
    """Return the items of the list eval.dev, or without one those of unseen speakers in dev.jsonl of eval.items_dir."""
    if settings.dev is not None:
        return read_eval_list(settings.dev, settings)
    path = items_folder(settings.items_dir) / "dev.jsonl"
    return unseen_speakers(read_items(path), path)


def conditions(settings: EvalConfig, evaluator: Evaluator, selecting: str) -> str:
    """Return a digest of what an error rate depends on besides the weights: items, synthesis and configs of judges."""
    judges = [entry for entry in settings.recognisers if f"{metric_prefix(entry.name)}/wer" == selecting]
    items = [(item.text, item.prompt_text, item.duration, item.speaker, item.language) for item in evaluator.items]
    values = [getattr(settings, key) for key in CONDITIONS]
    configs = [entry.config for entry in (*judges, settings.speaker)]
    text = json.dumps([items, evaluator.cfg_strength, values, configs], default=str)
    return sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def build_validation(
    cfg: TrainConfig,
    plan: BatchPlan,
    judges: Judges,
    vocabulary: Vocabulary,
    vocoder: Vocoder,
    checkpoints: CheckpointDir,
    log: Callable[[str], None],
    ranks: RanksOfRun,
    *,
    best: Best | None,
    cfg_strength: float,
    start_guidance: float | None = None,
) -> Validation:
    """Build the validation of a run, with that of a second list (eval.forgot) beside it; all ranks call this."""
    assert cfg.eval.every_updates, "chosen before"
    forgot, mel = None, LogMel(cfg.model.mel_spec)
    synthesizer = EvalSynthesizer(mel=mel, vocoder=vocoder, vocabulary=vocabulary, settings=cfg.eval)
    with ranks.raise_on_all_ranks():
        items = dev_items(cfg, plan.held_out, plan.dataset.rules)
        evaluator = build_evaluator(cfg, items, synthesizer, judges, cfg_strength)
        if cfg.eval.forgot is not None:
            items = read_eval_list(cfg.eval.forgot, cfg.eval)
            forgot = build_evaluator(cfg, items, synthesizer, judges, cfg_strength)
    if best is not None:
        best.judges.append(conditions(cfg.eval, evaluator, best.judges[0]))
    return Validation(
        evaluator,
        cfg.eval.every_updates,
        best,
        checkpoints,
        log,
        ranks,
        start_guidance=start_guidance,
        forgot=forgot,
        of_rewards=metrics_of_rewards(cfg),
    )


def metrics_of_rewards(cfg: TrainConfig) -> set[str]:
    """Return the error rates, and eval/sim, by models that are rewards of the run."""
    rewards = rewarded(cfg.rl.rewards.providers) if isinstance(cfg, RLTrainConfig) else []
    names = {f"{metric_prefix(entry.name)}/wer" for entry in cfg.eval.recognisers if is_reward(entry.name, rewards)}
    return names | ({"eval/sim"} if is_reward(cfg.eval.speaker.name, rewards) else set())


def build_stage1_best(cfg: TrainConfig) -> Best | None:
    """Build the record of the best validation of stage 1, which has no rewards; None without eval.every_updates."""
    judge = selecting_metric([entry.name for entry in cfg.eval.recognisers], [])
    assert judge is not None, "without rewards, every recognizer may select"
    return Best(judge, full_name(cfg.eval.speaker.name)) if cfg.eval.every_updates else None
