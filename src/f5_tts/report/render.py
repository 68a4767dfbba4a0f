"""Report of runs: one HTML page with verdict, clips, blind comparison, curves and settings, without other files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from f5_tts.files import write_atomically
from f5_tts.report.charts import draw_picture
from f5_tts.report.curves import HEALTH, alarms_of, curve_groups
from f5_tts.report.metrics_table import by_metric
from f5_tts.report.players import embed_audio, sampled_of, sentences_of
from f5_tts.report.sources import Sources, Training, find_sources
from f5_tts.report.table import Table
from f5_tts.report.verdict import Finding, Verdict, compare_models, from_validations

FILE = "report.html"


def write_page(
    sources: Sources, path: Path, *, title: str = "", introduction: str = "", judge: str | None = None
) -> list[Verdict]:
    """Write the page; return the verdicts.

    Args:
        introduction: what the page is about, in a few sentences.
        judge: recognizer that the verdicts come from; None: the first one that was no reward.
    """
    verdicts = verdicts_of(sources, judge)
    sentences, sampled = sentences_of(sources.evaluations, judge), sampled_of(sources.trainings)
    kept = embed_audio(sentences, sampled)
    html = (
        environment()
        .get_template("page.html")
        .render(
            file_of=lambda player: Path(os.path.relpath(player.path, path.parent)).as_posix(),
            introduction=introduction,
            title=title or default_title(sources),
            verdicts=verdicts,
            alarms=alarms_of(rows_of(sources)),
            tables=tables_of(sources),
            notes=[e.note for e in sources.evaluations if e.note],
            sentences=sorted(kept, key=lambda sentence: -sentence.fewer_errors),
            left_out=len(sentences) - len(kept),
            sampled=[update for update in sampled if all(player.audio for player in update.players)],
            seeds=seeds_of(sources),
            curves=curve_groups(rows_of(sources), seeds_of(sources)),
            trainings=[described(training) for training in sources.trainings],
            differing=differing_keys(sources.trainings),
        )
    )
    write_atomically(path, lambda part: part.write_text(html, encoding="utf-8"))
    return verdicts


def write_picture(sources: Sources, path: Path) -> None:
    """Write the first two charts of each group, but those of the health, as an SVG picture that follows dark mode."""
    runs = rows_of(sources)
    charts = [chart for group in curve_groups(runs) if group.title != HEALTH for chart in group.charts[:2]]
    style = environment().get_template("charts.css").render()
    write_atomically(path, lambda part: part.write_text(draw_picture(charts, list(runs), style), encoding="utf-8"))


def report_run(folder: Path) -> str:
    """Write the report of a run that has ended; return a sentence about it. No damaged file makes the run fail."""
    try:
        write_page(find_sources([folder]), folder / FILE)
    except (OSError, ValueError) as error:
        return f"no report of the run: {error}"
    return describe(folder / FILE)


def describe(path: Path) -> str:
    """Say where a report is and how large it is."""
    return f"report: {path} ({path.stat().st_size / 1e6:.1f} MB, one file); open it in a browser"


@lru_cache
def environment() -> jinja2.Environment:
    """Load the templates: page, style sheets and script."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("f5_tts.report", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def default_title(sources: Sources) -> str:
    """Return the title of the page: what it is about."""
    names = [training.title for training in sources.trainings] or [e.title for e in sources.evaluations]
    return f"Report of {', '.join(names)}"


def rows_of(sources: Sources) -> dict[str, Sequence[dict[str, Any]]]:
    """Return the rows of all runs by title."""
    return {training.title: training.rows for training in sources.trainings}


def seeds_of(sources: Sources) -> dict[str, list[str]]:
    """Return the titles of the runs of each group, whose runs differ by their seed alone."""
    return {title: [training.title for training in group] for title, group in sources.groups.items()}


def tables_of(sources: Sources) -> list[Table]:
    """Build the table of the models, and that of single runs where a model was trained with several seeds."""
    models = {model.title: model.results for model in sources.models}
    single = {evaluation.title: [evaluation.result] for evaluation in sources.evaluations}
    return [
        by_metric(results) for results in ([models] if models.keys() == single.keys() else [models, single]) if results
    ]


def verdicts_of(sources: Sources, judge: str | None) -> list[Verdict]:
    """Compare each model with the first one; without two evaluations, each run with its own beginning."""
    if len(sources.models) < 2:
        notes = [Finding(text=found.note) for found in sources.models if found.note]
        verdicts = [from_validations(training) for training in sources.trainings]
        return [replace(verdict, details=[*verdict.details, *notes]) for verdict in verdicts]
    before, *others = sources.models
    return [compare_models(before, after, judge) for after in others]


# --- runs ---


def described(training: Training) -> dict[str, Any]:
    """Describe a run: what was trained on what, its whole configuration, and the versions."""
    config = training.record.config
    facts = {
        "trained": f"{training.rows[-1]['update']} updates",
        "model": config.get("model.name"),
        "algorithm": config.get("rl.algorithm") or config.get("model.objective"),
        "from": config.get("ckpts.init_from"),
        "data set": ", ".join(filter(None, [config.get("datasets.name"), training.record.data_set])),
        "rewards": ", ".join(rewards_in(config)),
        "learning rate": config.get("optim.learning_rate"),
        "seed": config.get("optim.seed"),
        "versions": ", ".join(f"{name} {number}" for name, number in training.record.versions.items()),
    }
    return {
        "title": training.title,
        "facts": {name: value for name, value in facts.items() if value not in (None, "")},
        "config": config,
    }


def rewards_in(config: Mapping[str, Any]) -> list[str]:
    """List the rewards of a configuration with their weights."""
    names = [key for key in config if key.startswith("rl.rewards.providers.") and key.endswith(".name")]
    return [f"{config[key]} (weight {config.get(key.removesuffix('name') + 'weight', 1):g})" for key in names]


def differing_keys(trainings: Sequence[Training]) -> list[tuple[str, list[Any]]]:
    """List the settings that differ between the runs, with the value of each run; None where it has no such key."""
    configs = [training.record.config for training in trainings]
    if len([config for config in configs if config]) < 2:
        return []
    keys = dict.fromkeys(key for config in configs for key in config)
    return [
        (key, [config.get(key) for config in configs])
        for key in keys
        if len({repr(config.get(key)) for config in configs}) > 1
    ]
