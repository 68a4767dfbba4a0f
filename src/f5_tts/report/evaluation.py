"""Page of one evaluation: its metrics, errors by kind, and the clips with the most errors first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from f5_tts.config.reward_names import is_reward
from f5_tts.eval.results import Result
from f5_tts.eval.statistics import Score, bootstrap_interval, error_rate
from f5_tts.files import write_atomically
from f5_tts.report.table import Table, percent
from f5_tts.rewards.asr.normal_form import words_of

FILE = "results.md"
KINDS = {"replace": "substituted", "delete": "deleted", "insert": "inserted"}
MEASURED = {  # metric -> title, digits and unit
    "mos": ("opinion score", ".2f", " of 5"),
    "f0_spread": ("F0 spread", ".2f", " semitones"),
    "speech_rate": ("speech rate", ".1f", " letters per second"),
    "pause": ("longest pause", ".2f", " s"),
    "clicks": ("clicks", ".2f", " per second"),
    "clipped": ("clipped samples", ".2%", ""),
}
MAX_CLIPS = 100  # on the page; scores.json has all
MAX_PRINTED = 5


def write_page(result: Result, folder: Path) -> None:
    """Write results.md."""
    tables = [metrics_table(result), texts_table(result), kinds_table(result), worst_table(result)]
    text = "\n".join([f"# Evaluation of {result.ckpt}\n", *(table.markdown() for table in tables if table.rows)])
    write_atomically(folder / FILE, lambda part: part.write_text(text, encoding="utf-8"))


def describe_errors(result: Result) -> list[str]:
    """Say which errors there are, how natural clips are, which ones are worst, and how long the synthesis took."""
    worst = worst_first(result.unseen(judge_of(result)))[:MAX_PRINTED]
    return [
        *describe_kinds(result),
        *describe_texts(result),
        *describe_measures(result),
        *(f"worst: {s.id}, {wrong(s)}: {s.text!r} was heard as {s.hypothesis!r}" for s in worst),
        *([] if result.rtf is None else [f"real-time factor {result.rtf:.3f}"]),
    ]


def describe_kinds(result: Result) -> list[str]:
    """Say how many words are wrong in which way, by each recognizer."""
    kinds = {result.title(name): error_kinds(result.unseen(name)) for name in result.scores}
    return [
        f"words by {title}: {', '.join(f'{share:.1%} {kind}' for kind, share in shares.items())}"
        for title, shares in kinds.items()
        if shares
    ]


def describe_texts(result: Result) -> list[str]:
    """Say the error rate of each kind of text; nothing where the list names no kinds."""
    rates = [f"{kind} {error_rate(scores):.1%}" for kind, scores in by_kind_of_text(result).items()]
    title = result.title(judge_of(result))
    return [f"error rate by kind of text ({title}): {', '.join(rates)}"] if rates else []


def describe_measures(result: Result) -> list[str]:
    """Say how natural clips and recordings are by what was measured; nothing of earlier results."""
    metrics, recordings = result.metrics(), result.recordings
    shown = [
        f"{title} {metrics[f'eval/{name}']:{digits}}{unit}"
        + (f" (recordings {recordings[name]:{digits}})" if name in recordings else "")
        for name, (title, digits, unit) in MEASURED.items()
        if f"eval/{name}" in metrics
    ]
    return [", ".join(shown)] if shown else []


def judge_of(result: Result) -> str:
    """Return the first recognizer that was no reward of the model, else the first one."""
    names = list(result.scores)
    return next((name for name in names if not is_reward(name, result.rewards)), names[0])


def error_kinds(scores: Sequence[Score]) -> dict[str, float]:
    """Compute substituted, deleted and inserted words per word of the texts; none for results without texts."""
    if not all(score.text for score in scores):
        return {}
    edits = [
        edit.tag for score in scores for edit in Levenshtein.editops(words_of(score.text), words_of(score.hypothesis))
    ]
    return {kind: edits.count(tag) / sum(score.words for score in scores) for tag, kind in KINDS.items()}


def by_kind_of_text(result: Result) -> dict[str, list[Score]]:
    """Group the scores by the judge by kind of text, in the order of the list; none where the list names no kinds."""
    scores = result.unseen(judge_of(result))
    kinds = dict.fromkeys(score.kind for score in scores if score.kind)
    return {kind: [score for score in scores if score.kind == kind] for kind in kinds}


def worst_first(scores: Sequence[Score]) -> list[Score]:
    """Return the clips with errors, those with the most per word first; of equal ones those with more errors."""
    wrong_ones = [score for score in scores if score.edits]
    return sorted(wrong_ones, key=lambda score: (-score.edits / score.words, -score.edits))


def wrong(score: Score) -> str:
    """Format the errors of a clip."""
    return f"{score.edits} errors in {score.words} words" if score.edits > 1 else f"1 error in {score.words} words"


# --- tables ---


def metrics_table(result: Result) -> Table:
    """Build the table of all metrics."""
    metrics = result.metrics()
    recorded = {f"eval/{name}": f"{value:.4g}" for name, value in result.recordings.items()}
    rows = [
        [name, f"{value:.4g}", half_width(metrics, name), recorded.get(name, "")]
        for name, value in metrics.items()
        if not name.endswith("_ci95")
    ]
    return Table(
        caption="Metrics on the test set, with half the width of their 95 % intervals",
        header=["metric", "value", "±", "recordings"],
        rows=rows,
    )


def half_width(metrics: Mapping[str, float], name: str) -> str:
    """Format half the width of a metric's interval; empty where it has none."""
    return f"{metrics[f'{name}_ci95']:.2g}" if f"{name}_ci95" in metrics else ""


def kinds_table(result: Result) -> Table:
    """Build the table of errors by kind."""
    kinds = {name: error_kinds(result.unseen(name)) for name in result.scores}
    rows = [
        [result.title(name), *(f"{100 * x:.1f} %" for x in found.values())] for name, found in kinds.items() if found
    ]
    return Table(caption="Errors per word of the texts", header=["recogniser", *KINDS.values()], rows=rows)


def texts_table(result: Result) -> Table:
    """Build the table of error rates by kind of text."""
    rows = [
        [kind, percent(bootstrap_interval(scores)), str(len(scores))]
        for kind, scores in by_kind_of_text(result).items()
    ]
    title = result.title(judge_of(result))
    return Table(caption=f"By kind of text, by {title}", header=["texts", "error rate", "clips"], rows=rows)


def worst_table(result: Result) -> Table:
    """Build the table of the clips with errors, worst first, by the first recognizer that was no reward."""
    name = judge_of(result)
    rows = [
        [
            score.id,
            str(score.edits),
            str(score.words),
            f"{score.similarity:.3f}",
            cell(score.text),
            cell(score.hypothesis),
        ]
        for score in worst_first(result.unseen(name))[:MAX_CLIPS]
    ]
    return Table(
        caption=f"Clips with errors by {result.title(name)}, worst first (at most {MAX_CLIPS})",
        header=["item", "errors", "words", "similarity", "text", "heard"],
        rows=rows,
    )


def cell(text: str) -> str:
    """Return a text as the cell of a table."""
    return text.replace("|", "\\|")
