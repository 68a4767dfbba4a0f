"""Held-out error rate and similarity of one checkpoint.

`python -m f5_tts.scripts.evaluate -cn F5TTS_Mini eval.ckpt=FILE eval.out=DIR` chooses guidance on dev.jsonl, for each
recogniser by its own ears, speaks test.jsonl with it, and leaves DIR/scores.json and DIR/wavs.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor

from f5_tts.config.load import load_run
from f5_tts.config.schema import ConfigError, RunConfig
from f5_tts.data.audio import write_wav
from f5_tts.data.tokenizer import Vocabulary, build_vocabulary
from f5_tts.entrypoint import command
from f5_tts.eval.evaluator import (
    Voice,
    build_judges,
    build_recogniser,
    build_voice,
    error_rates,
    fingerprint,
    grade,
    speaking_model,
)
from f5_tts.eval.results import FILE, Result, chosen_examples, read_result, write_result
from f5_tts.eval.test_set import EvalItem, read_items, unseen_of
from f5_tts.model.checkpoint import Checkpoint, ModelCard, check_card, read_checkpoint


def evaluate(run: RunConfig) -> Result:
    """What an earlier evaluation found of the same weights, else a new one; its scores and a few clips are written."""
    settings = run.eval
    if settings.ckpt is None or settings.out is None:
        raise ConfigError("evaluation needs eval.ckpt=FILE (a checkpoint) and eval.out=FOLDER (for its results)")
    dev, test = (read_items(Path(settings.items_dir) / f"{split}.jsonl") for split in ("dev", "test"))
    unseen_of(test, Path(settings.items_dir) / "test.jsonl")
    checkpoint, vocabulary = read_checkpoint(Path(settings.ckpt)).using(), build_vocabulary(run)
    check_card(checkpoint, ModelCard.of(run.model, vocabulary))
    mark = fingerprint(run, checkpoint, vocabulary, dev + test)
    result = found_before(run, mark)
    if result is None:
        result = Result(ckpt=settings.ckpt, mark=mark, **grades(run, checkpoint, vocabulary, dev, test))
    write_result(result, Path(settings.out))
    return result


def grades(
    run: RunConfig, checkpoint: Checkpoint, vocabulary: Vocabulary, dev: list[EvalItem], test: list[EvalItem]
) -> dict[str, Any]:
    """Guidance chosen on dev, and the scores of test by every recogniser."""
    settings = run.eval
    model, voice = speaking_model(run, checkpoint, vocabulary), build_voice(run, vocabulary)
    recognisers = {name: build_recogniser(name) for name in settings.recognisers}
    unseen = unseen_of(dev, Path(settings.items_dir) / "dev.jsonl") * settings.dev_takes
    tried = {strength: voice.speak(model, unseen, strength) for strength in settings.cfg_strengths}
    rates = {name: error_rates(unseen, tried, voice.sample_rate, hear) for name, hear in recognisers.items()}
    guidance = {name: float(min(found, key=lambda strength: found[strength])) for name, found in rates.items()}
    takes, started = test * settings.takes, perf_counter()  # each place in the list has noise of its own
    clips = {strength: voice.speak(model, takes, strength) for strength in sorted(set(guidance.values()))}
    rtf = voice.real_time_factor(perf_counter() - started, chain.from_iterable(clips.values()))
    judges = build_judges(settings)
    scores = {name: grade(takes, clips[guidance[name]], voice, hear, judges) for name, hear in recognisers.items()}
    first = settings.recognisers[0]
    keep_examples(test, clips[guidance[first]], chosen_examples(scores[first], settings.num_wavs), voice)
    return {"guidance": guidance, "dev_error_rates": rates, "scores": scores, "rtf": rtf}


def found_before(run: RunConfig, mark: str) -> Result | None:
    """The result in eval.known, with its clips, if it is of the same mean velocity, measured in the same way."""
    settings = run.eval
    if settings.known is None or not (Path(settings.known) / FILE).is_file():
        return None
    known = read_result(Path(settings.known))
    if known.mark != mark:
        return None
    print(f"{settings.ckpt} speaks with the weights of {known.ckpt}, bit for bit: scores as in {settings.known}")
    shutil.copytree(Path(settings.known) / "wavs", Path(str(settings.out)) / "wavs", dirs_exist_ok=True)
    return replace(known, ckpt=str(settings.ckpt))


def keep_examples(items: list[EvalItem], clips: list[Tensor], chosen: list[str], voice: Voice) -> None:
    """The first takes of the chosen items, as WAV files."""
    for item, clip in zip(items, clips[: len(items)], strict=True):
        if item.id in chosen:
            write_wav(Path(str(voice.settings.out)) / "wavs" / f"{item.id}.wav", clip, voice.sample_rate)


def main(argv: list[str]) -> bool:
    run = load_run(argv, default="F5TTS_Mini", schema=RunConfig)
    result = evaluate(run)
    for recogniser in run.eval.recognisers:
        print(result.summary(recogniser))
    print(", ".join(f"{name}={value:.4g}" for name, value in result.metrics().items()))
    return True


if __name__ == "__main__":
    command(main, sys.argv[1:])
