"""Evaluation results: the file `scores.json` and its metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from f5_tts.config.reward_names import is_reward
from f5_tts.eval.statistics import (
    Score,
    bootstrap_intervals,
    char_errors,
    error_rate,
    extra_metric,
    mean_similarity,
    prompt_leaks,
    repetitions,
    similarities,
    word_errors,
)
from f5_tts.files import write_atomically

FILE = "scores.json"
METRIC_PREFIX = {"pocketsphinx": "eval", "whisper": "judge"}  # prefix of the metrics of two recognizers
ASR_METRICS = {"wer": word_errors, "cer": char_errors, "repeat_rate": repetitions, "leak_rate": prompt_leaks}


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Result of evaluating one checkpoint."""

    ckpt: str  # or the folder of the clips, where another system made them
    guidance: dict[str, float]  # by recognizer; chosen on the dev set; empty for clips of another system
    dev_error_rates: dict[str, dict[str, float]]  # by recognizer and guidance
    scores: dict[str, list[Score]]  # by recognizer; one score per take of a test item
    # real-time factor: s of computation per s of speech; varies between runs; None for clips of another system
    rtf: float | None = field(compare=False)
    speaker_judge: str = "voice_sim"  # provider that measured similarity; earlier files have none: it was this one
    titles: dict[str, str] = field(default_factory=dict)  # name of each recognizer in tables; earlier files have none
    floors: dict[str, float] = field(default_factory=dict)  # error rate of each recognizer on recordings, if measured
    recordings: dict[str, float] = field(default_factory=dict)  # means of measures and other judges of the recordings
    rewards: list[str] = field(default_factory=list)  # what the checkpoint was trained by, as far as it says
    mark: str = ""  # of weights, settings and items; equal evaluations have the same one

    def unseen(self, asr: str) -> list[Score]:
        """Return the scores of speakers that were not in the training data (held-out)."""
        return [score for score in self.scores[asr] if not score.seen]

    def metrics(self) -> dict[str, float]:
        """Compute the held-out metrics."""
        return named_metrics({name: self.unseen(name) for name in self.scores}, self.rtf)

    def title(self, asr: str) -> str:
        """Return the name of a recognizer in tables, and that it was a reward where it was."""
        return labelled(self.titles.get(asr, asr), asr, self.rewards)

    def summary(self, asr: str) -> str:
        """Describe the held-out results by a recognizer in one line."""
        scores = self.unseen(asr)
        at_guidance = f" at guidance {self.guidance[asr]:g}" if self.guidance else ""
        return (
            f"held-out error rate {error_rate(scores):.1%}, similarity {mean_similarity(scores):.3f}{at_guidance} "
            f"({self.title(asr)}, {len(scores)} clips of unseen speakers)"
        )


def labelled(title: str, name: str, rewards: Sequence[str]) -> str:
    """Mark the title of a judge that is one of the rewards."""
    return f"{title} (reward)" if is_reward(name, rewards) else title


def metric_prefix(recognizer: str) -> str:
    """Return the prefix of a recognizer's metrics: eval for pocketsphinx, judge for whisper, else its name."""
    return METRIC_PREFIX.get(recognizer, recognizer)


def named_metrics(scores: Mapping[str, Sequence[Score]], rtf: float | None) -> dict[str, float]:
    """Compute the metrics of docs/metrics.md by recognizer, each with the half-width of its 95 % interval.

    Similarity and other judges' scores do not depend on the recognizer; they come from the scores of the first one.
    """
    metrics = {} if rtf is None else {"eval/rtf": rtf}
    for index, (asr, asr_scores) in enumerate(scores.items()):
        prefix = metric_prefix(asr)
        ratio_metrics = {f"{prefix}/{name}": ratio_metric for name, ratio_metric in ASR_METRICS.items()}
        if index == 0:
            names = dict.fromkeys(name for score in asr_scores for name in (*score.opinions, *score.measures))
            ratio_metrics |= {"eval/sim": similarities, **{f"eval/{name}": extra_metric(name) for name in names}}
        for name, interval in zip(
            ratio_metrics, bootstrap_intervals(asr_scores, list(ratio_metrics.values())), strict=True
        ):
            metrics |= {name: interval.value, f"{name}_ci95": interval.half_width}
    return metrics


def write_result(result: Result, folder: Path) -> None:
    """Write `scores.json`."""
    text = json.dumps({**asdict(result), "metrics": result.metrics()}, indent=1)

    def write(tmp_path: Path) -> None:
        tmp_path.write_text(text, encoding="utf-8")

    write_atomically(folder / FILE, write)


def read_result(folder: Path) -> Result:
    """Read `scores.json`.

    Raises FileNotFoundError with the command that makes the file, ValueError if it is damaged or from another version.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: make it with f5-tts evaluate eval.out={folder}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values.pop("metrics", None)  # they are computed from the other fields
        scores = {name: [Score(**row) for row in rows] for name, rows in values.pop("scores").items()}
        result = Result(**values, scores=scores)
        check_result(result)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged, or of another version ({error}): remove it, and make it with f5-tts "
            f"evaluate eval.out={folder}"
        ) from error
    return result


def check_result(result: Result) -> None:
    """Raise ValueError for a value of the wrong type, because JSON does not enforce types."""
    tables = [result.guidance, *result.dev_error_rates.values()]
    numbers = [value for table in tables for value in table.values()]
    scores = [score for asr_scores in result.scores.values() for score in asr_scores]
    numbers += [value for score in scores for value in (score.edits, score.words, score.char_edits, score.chars)]
    numbers += [*result.floors.values(), *result.recordings.values(), *(score.similarity for score in scores)]
    numbers += [] if result.rtf is None else [result.rtf]
    numbers += [value for score in scores for value in (score.opinions | score.measures).values()]
    texts = [
        result.ckpt,
        result.mark,
        result.speaker_judge,
        *result.titles.values(),
        *result.rewards,
        *(text for score in scores for text in (score.id, score.hypothesis, score.heard, score.text, score.kind)),
    ]
    flags = [flag for score in scores for flag in (score.seen, score.stutters, score.leaks)]
    if not all(type(value) in (int, float) for value in numbers):
        raise ValueError("a value that must be a number is not one")
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(flag, bool) for flag in flags):
        raise ValueError("a value that must be a text or a flag is not one")
    if result.guidance and result.guidance.keys() != result.scores.keys():
        raise ValueError("guidance and scores are of different recognisers")


def select_examples(scores: Sequence[Score], count: int) -> list[str]:
    """Select ids of unseen speakers' items, evenly spaced over the list, whose clips the evaluation keeps."""
    ids = list(dict.fromkeys(score.id for score in scores if not score.seen))
    return ids[:: max(1, len(ids) // count)][:count]
