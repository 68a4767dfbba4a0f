"""Agreement of recognizers: how far their transcripts are apart, and what each makes of recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean

from f5_tts.eval.evaluator import EvalAudio, reward_inputs
from f5_tts.eval.judges import Judges, item_language
from f5_tts.eval.results import Result
from f5_tts.eval.statistics import Score
from f5_tts.eval.test_set import EvalItem
from f5_tts.rewards.asr.error_rate import word_errors
from f5_tts.rewards.measures import MEASURES, measure


def recordings_of(items: Sequence[EvalItem]) -> list[EvalItem]:
    """List the recordings of a test set as items whose text they say: those of the texts, or else the prompts."""
    targets = {item.target_audio: replace(item, prompt_audio=item.target_audio) for item in items if item.target_audio}
    prompts = {item.prompt_audio: replace(item, text=item.prompt_text) for item in items if item.prompt_text.strip()}
    return list((targets or prompts).values())


def floors(items: Sequence[EvalItem], reader: EvalAudio, judges: Judges) -> dict[str, float]:
    """Compute the error rate of each recognizer on the recordings of a test set; none where no text has a word.

    It is what a perfect model would get: errors of the recognizer, and of the texts.
    """
    settings, recordings = reader.settings, recordings_of(items)
    normal = [judges.normalize(item.text, item_language(item, settings)) for item in recordings]
    spoken = [(item, text) for item, text in zip(recordings, normal, strict=True) if text]
    inputs = reward_inputs([i for i, _ in spoken], [reader.prompt(i) for i, _ in spoken], reader)
    rates = {}
    for name in judges.recognizers if spoken else ():
        heard = zip(spoken, judges.transcribe(name, inputs), strict=True)
        counts = [
            word_errors(text, judges.normalize(said, item_language(item, settings))) for (item, text), said in heard
        ]
        rates[name] = sum(edits for edits, _ in counts) / sum(words for _, words in counts)
    return rates


def recording_measures(items: Sequence[EvalItem], reader: EvalAudio) -> dict[str, float]:
    """Compute the mean measures of the recordings of a test set, without those that do not apply to any of them."""
    recordings = recordings_of(items)
    inputs = reward_inputs(recordings, [reader.prompt(item) for item in recordings], reader)
    measured = [measure(recording) for recording in inputs]
    values = {name: [row[name] for row in measured if name in row] for name in MEASURES}
    return {name: fmean(found) for name, found in values.items() if found}


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
