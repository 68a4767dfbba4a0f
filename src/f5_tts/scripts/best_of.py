"""Best-of-N sampling on the test set: N samples per item, of which the reward selects one; no training is needed.

`python -m f5_tts.scripts.best_of -cn F5TTS_Mini_RL eval.ckpt=FILE eval.out=DIR eval.best_of=8 eval.cfg_strengths=[1]`
writes DIR/scores.json as `evaluate` does, scored by eval.recognisers. Each use costs N times the synthesis of one
sample.
"""

from __future__ import annotations

from f5_tts.commands import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("best-of")

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config.reward_names import full_name, rewarded
from f5_tts.config.schema import RewardsConfig, RLTrainConfig
from f5_tts.eval.evaluator import (
    EvalSynthesizer,
    build_eval_synthesizer,
    find_eval_vocabulary,
    load_eval_model,
    reward_inputs,
    score_clips,
)
from f5_tts.eval.judges import build_judges, check_judges
from f5_tts.eval.results import Result, write_result
from f5_tts.eval.test_set import EvalItem, items_folder, read_items
from f5_tts.files import ensure_writable_dir
from f5_tts.model.checkpoint import ModelSpec, check_spec, read_checkpoint
from f5_tts.rewards.combine import combine
from f5_tts.rewards.registry import build_providers, component_weights, score_all
from f5_tts.scripts.flags import require_best_of
from f5_tts.types import RewardProvider


def best_of(cfg: RLTrainConfig) -> Result:
    """Synthesize eval.best_of samples per test item, select the one with the highest reward, and score it.

    The guidance strength is the only value of eval.cfg_strengths. The result is written to eval.out.

    Raises:
        ConfigError: eval.ckpt or eval.out is missing, or eval.cfg_strengths does not hold exactly one value.
    """
    settings = cfg.eval
    require_best_of(settings)
    out, (strength,) = Path(str(settings.out)), settings.cfg_strengths
    checkpoint = read_checkpoint(Path(str(settings.ckpt))).with_weights()
    vocabulary = find_eval_vocabulary(cfg, checkpoint)
    check_spec(checkpoint, ModelSpec.of(cfg.model, vocabulary))
    ensure_writable_dir(out, "eval.out")
    providers, judges = build_providers(cfg.rl.rewards.providers), build_judges(settings)
    test = read_items(items_folder(settings.items_dir) / "test.jsonl")
    check_judges(judges, test, settings)
    model, synthesizer = load_eval_model(cfg, checkpoint, vocabulary), build_eval_synthesizer(cfg, vocabulary)
    items = test * settings.takes
    started = perf_counter()
    attempts = [
        reseeded(synthesizer, index * len(items)).synthesize(model, items, strength)
        for index in range(settings.best_of)
    ]
    chosen = rewards_of(attempts, items, synthesizer, cfg.rl.rewards, providers).argmax(dim=0).tolist()
    clips = [attempts[index][item] for item, index in enumerate(chosen)]
    rtf = synthesizer.real_time_factor(perf_counter() - started, clips)  # the time of all tries counts
    scores = score_clips(items, clips, synthesizer, judges)
    guidance = dict.fromkeys(judges.recognizers, strength)
    result = Result(
        ckpt=str(settings.ckpt),
        guidance=guidance,
        dev_error_rates={},
        scores=scores,
        rtf=rtf,
        speaker_judge=full_name(settings.speaker.name),
        titles=judges.titles(),
        rewards=rewarded(cfg.rl.rewards.providers),
    )
    write_result(result, out)
    return result


def reseeded(synthesizer: EvalSynthesizer, offset: int) -> EvalSynthesizer:
    """Return the same synthesizer with its seed shifted by `shift`, so that it uses other noise."""
    return replace(synthesizer, settings=replace(synthesizer.settings, seed=synthesizer.settings.seed + offset))


def rewards_of(
    attempts: Sequence[list[Tensor]],
    items: Sequence[EvalItem],
    synthesizer: EvalSynthesizer,
    rewards: RewardsConfig,
    providers: Mapping[str, RewardProvider],
) -> Float[Tensor, "n b"]:
    """Compute the weighted sum of the run's rewards for each clip of each try."""
    weights = component_weights(rewards.providers, providers)
    inputs = [reward_inputs(items, clips, synthesizer) for clips in attempts]
    return torch.stack([combine(score_all(providers, each), weights, rewards.gates, {}).total for each in inputs])


def run(cfg: RLTrainConfig) -> bool:
    """Run the command: evaluate best-of-N and print a line for each recogniser."""
    result = best_of(cfg)
    for entry in cfg.eval.recognisers:
        print(f"best of {cfg.eval.best_of}: {result.summary(entry.name)}")
    print(f"wrote {cfg.eval.out}; next: f5-tts report {shlex.quote(str(cfg.eval.out))}")
    return True
