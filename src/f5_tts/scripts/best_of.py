"""Best of N: a model speaks every item N times and the reward chooses one; what a reward gives without any training.

`python -m f5_tts.scripts.best_of -cn F5TTS_Mini_RL eval.ckpt=FILE eval.out=DIR eval.best_of=8 eval.cfg_strengths=[1]`
leaves DIR/scores.json as `evaluate` does, graded by eval.recognisers. It costs N times as much whenever it speaks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from f5_tts.config.load import load_run
from f5_tts.config.schema import ConfigError, RewardsConfig, RLRunConfig
from f5_tts.data.tokenizer import build_vocabulary
from f5_tts.entrypoint import command
from f5_tts.eval.evaluator import (
    Voice,
    build_judges,
    build_recogniser,
    build_voice,
    grade,
    reward_inputs,
    speaking_model,
)
from f5_tts.eval.results import Result, write_result
from f5_tts.eval.test_set import EvalItem, read_items
from f5_tts.model.checkpoint import ModelCard, check_card, read_checkpoint
from f5_tts.rewards.combine import combine
from f5_tts.rewards.registry import build_providers, component_weights, score_all


def best_of(run: RLRunConfig) -> Result:
    """The clips that the reward chooses, graded; guidance is the one of eval.cfg_strengths."""
    settings = run.eval
    if settings.ckpt is None or settings.out is None:
        raise ConfigError("best of N needs eval.ckpt=FILE (a checkpoint) and eval.out=FOLDER (for its results)")
    if len(settings.cfg_strengths) != 1:
        raise ConfigError(f"eval.cfg_strengths={settings.cfg_strengths}: name one, e.g. that of the model's evaluation")
    (strength,) = settings.cfg_strengths
    checkpoint, vocabulary = read_checkpoint(Path(settings.ckpt)).using(), build_vocabulary(run)
    check_card(checkpoint, ModelCard.of(run.model, vocabulary))
    model, voice = speaking_model(run, checkpoint, vocabulary), build_voice(run, vocabulary)
    items = read_items(Path(settings.items_dir) / "test.jsonl") * settings.takes
    started = perf_counter()
    tries = [again(voice, place * len(items)).speak(model, items, strength) for place in range(settings.best_of)]
    chosen = rewards_of(tries, items, voice, run.rl.rewards).argmax(dim=0).tolist()
    clips = [tries[place][item] for item, place in enumerate(chosen)]
    rtf = voice.real_time_factor(perf_counter() - started, clips)  # of all that was spoken to choose from
    judges = build_judges(settings)
    scores = {name: grade(items, clips, voice, build_recogniser(name), judges) for name in settings.recognisers}
    guidance = dict.fromkeys(settings.recognisers, strength)
    result = Result(ckpt=settings.ckpt, guidance=guidance, dev_error_rates={}, scores=scores, rtf=rtf)
    write_result(result, Path(settings.out))
    return result


def again(voice: Voice, shift: int) -> Voice:
    """The same voice with other noise."""
    return replace(voice, settings=replace(voice.settings, seed=voice.settings.seed + shift))


def rewards_of(
    tries: Sequence[list[Tensor]], items: Sequence[EvalItem], voice: Voice, rewards: RewardsConfig
) -> Float[Tensor, "n b"]:
    """The weighted sum of a run's rewards for each clip of each try."""
    providers = build_providers(rewards.providers)
    weights = component_weights(rewards.providers, providers)
    inputs = [reward_inputs(items, clips, voice) for clips in tries]
    return torch.stack([combine(score_all(providers, each), weights, rewards.gates, {}).total for each in inputs])


def main(argv: list[str]) -> bool:
    run = load_run(argv, default="F5TTS_Mini_RL", schema=RLRunConfig)
    result = best_of(run)
    for recogniser in run.eval.recognisers:
        print(f"best of {run.eval.best_of}: {result.summary(recogniser)}")
    return True


if __name__ == "__main__":
    command(main, sys.argv[1:])
