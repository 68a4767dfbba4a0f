"""Agreement of recognizers: how far their transcripts are apart, and what each makes of recordings."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean

from f5_tts.eval.evaluator import EvalAudio, score_clips
from f5_tts.eval.judges import Judges, item_language
from f5_tts.eval.progress import NOTHING_KEPT, Progress
from f5_tts.eval.results import Result
from f5_tts.eval.statistics import Score, error_rate
from f5_tts.eval.test_set import EvalItem
from f5_tts.rewards.asr.error_rate import word_errors


def recordings_of(items: Sequence[EvalItem]) -> list[EvalItem]:
    """List the recordings of a test set as items whose text they say: those of the texts, or else the prompts."""
    targets = {item.target_audio: replace(item, prompt_audio=item.target_audio) for item in items if item.target_audio}
    prompts = {item.prompt_audio: replace(item, text=item.prompt_text) for item in items if item.prompt_text.strip()}
    return [replace(item, target_audio="") for item in (targets or prompts).values()]


def judge_recordings(
    items: Sequence[EvalItem], reader: EvalAudio, judges: Judges, progress: Progress = NOTHING_KEPT
) -> tuple[dict[str, float], dict[str, float]]:
    """Judge the recordings of a test set as if they were clips.

    Returns the error rate of each recognizer, which is what a perfect model would get (errors of the recognizer, and of
    the texts), and the means of measures and of other judges' scores, but for similarities. Both are empty where no
    recording has a text with a word.
    """
    spoken = [
        item for item in recordings_of(items) if judges.normalize(item.text, item_language(item, reader.settings))
    ]
    if not spoken:
        return {}, {}
    scores = score_clips(spoken, [reader.prompt(item) for item in spoken], reader, judges, progress)
    floors = {name: error_rate(heard) for name, heard in scores.items()}
    values = defaultdict[str, list[float]](list)
    for score in next(iter(scores.values())):
        for name, value in (score.opinions | score.measures).items():
            if not math.isnan(value) and not name.endswith("sim"):
                values[name].append(value)
    return floors, {name: fmean(found) for name, found in values.items()}


def disagreement(one: Sequence[Score], other: Sequence[Score]) -> float:
    """Compute how far two recognizers' transcripts of the same clips are apart: word edits per word of the texts."""
    edits = [word_errors(a.hypothesis, b.hypothesis)[0] for a, b in zip(one, other, strict=True)]
    return sum(edits) / sum(score.words for score in one)


def describe_agreement(result: Result) -> list[str]:
    """Say how far each two recognizers are apart on the clips of unseen speakers, and how each did on recordings."""
    lines = [
        f"{result.title(one)} and {result.title(other)} disagree on "
        f"{disagreement(result.unseen(one), result.unseen(other)):.1%} of the words"
        for one, other in combinations(result.scores, 2)
    ]
    if not result.floors:
        return lines
    shares = ", ".join(f"{result.title(name)} {rate:.1%}" for name, rate in result.floors.items())
    worst = max(result.floors, key=lambda name: result.floors[name])
    which = f"; {result.title(worst)} heard them worst" if len(set(result.floors.values())) > 1 else ""
    return [*lines, f"error rate on the recordings themselves: {shares}{which}"]
