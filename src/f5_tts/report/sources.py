"""What a report is made of: the training runs and the evaluations in the folders that it is asked about."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from f5_tts.eval import results
from f5_tts.eval.results import Result, read_result
from f5_tts.report.metric_rows import metric_rows
from f5_tts.report.run_record import RunRecord, read_record
from f5_tts.report.seeds import group_by_seed, shared_title
from f5_tts.report.table import other_judges

METRICS = "metrics.jsonl"
SKIPPED = ("set_aside", "unfinished", "wavs", "samples", "data")  # folders that are not searched
MAX_DEPTH = 3  # of the folders that are searched


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Training run: its folder, its metrics by update, and how it was started."""

    title: str
    folder: Path
    rows: Sequence[dict[str, Any]]
    record: RunRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Evaluation of one checkpoint."""

    title: str
    folder: Path
    result: Result
    note: str = ""  # which evaluations of the same weights are left out
    other_seeds: Sequence[Result] = ()  # of runs that differ by their seed alone

    @property
    def results(self) -> list[Result]:
        """Return the results of all seeds."""
        return [self.result, *self.other_seeds]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """All runs and evaluations of a report; the first evaluation is what the others are compared with."""

    trainings: Sequence[Training]
    evaluations: Sequence[Evaluation]
    groups: Mapping[str, Sequence[Training]]  # by title; runs that differ by their seed alone are one group

    @property
    def models(self) -> list[Evaluation]:
        """Return the evaluations, where those of a group's runs are one."""
        return over_seeds(self.evaluations, self.groups)


def find_sources(folders: Sequence[Path], before: str | None = None) -> Sources:
    """Find the runs (metrics.jsonl) and evaluations (scores.json) in these folders and below.

    Args:
        before: title of the evaluation that the others are compared with; by default the first one of a checkpoint
            that no reward has trained.

    Raises:
        FileNotFoundError: a folder is missing, or holds neither.
        ValueError: no evaluation has the title `before`, or a file is damaged.
    """
    pairs = [(folder, place) for folder in folders for place in places(folder)]
    trainings = [
        Training(title=title, folder=place, rows=rows, record=read_record(place))
        for place, title in titles_of(pairs, METRICS).items()
        if (rows := metric_rows(place / METRICS))
    ]
    evaluations = [
        Evaluation(title=title, folder=place, result=read_result(place))
        for place, title in titles_of(pairs, results.FILE).items()
    ]
    missing = [str(folder) for folder in folders if not is_used(folder, [*trainings, *evaluations])]
    if missing:
        raise FileNotFoundError(
            f"{', '.join(missing)}: no metrics of an update ({METRICS}) and no scores ({results.FILE}) there. A report "
            "needs the folder of a run (ckpts.save_dir) or of an evaluation (eval.out), or one that holds such folders"
        )
    groups = groups_of(trainings)
    kept = without_copies(first_before(evaluations, before), groups)
    return Sources(trainings=trainings, evaluations=kept, groups=groups)


def is_used(folder: Path, found: Sequence[Training | Evaluation]) -> bool:
    """Check whether a run or an evaluation is in a folder."""
    return any(source.folder.is_relative_to(folder) for source in found)


def places(folder: Path) -> list[Path]:
    """List the folders with metrics or scores, at most MAX_DEPTH levels down."""
    found = []
    for path, names, files in os.walk(folder):
        here = Path(path)
        too_deep = len(here.relative_to(folder).parts) >= MAX_DEPTH
        names[:] = [] if too_deep else sorted(n for n in names if n not in SKIPPED and not n.startswith("."))
        if {METRICS, results.FILE} & set(files):
            found.append(here)
    return found


def titles_of(found: Sequence[tuple[Path, Path]], file: str) -> dict[Path, str]:
    """Return a title for each folder with this file: its path below the one that was asked for.

    The name of the latter comes before it where two would be equal.
    """
    kept = {place: folder for folder, place in found if (place / file).is_file()}
    titles = {place: name_below(folder, place) for place, folder in kept.items()}
    for above in range(1, max((len(folder.resolve().parts) for folder in kept.values()), default=0)):
        names = list(titles.values())
        titles |= {place: name_below(kept[place], place, above) for place in kept if names.count(titles[place]) > 1}
    return titles


def name_below(folder: Path, place: Path, above: int = 0) -> str:
    """Return the path of a folder below another one, without `eval/` at its beginning.

    Args:
        above: how many names of the path of the other folder come before it; at least one, where both are the same.
    """
    below = place.relative_to(folder).as_posix().removeprefix("eval/")
    names = folder.resolve().parts
    return "/".join(names[-max(above, 1) :]) if below == "." else "/".join([*names[len(names) - above :], below])


def first_before(evaluations: Sequence[Evaluation], before: str | None) -> list[Evaluation]:
    """Put the evaluation that the others are compared with first."""
    titles = [evaluation.title for evaluation in evaluations]
    if before is not None and before not in titles:
        raise ValueError(f"--before {before}: no evaluation has this title; found {', '.join(titles) or 'none'}")
    untrained = [evaluation.title for evaluation in evaluations if not evaluation.result.rewards]
    first = before or next(iter(untrained or titles), None)
    return sorted(evaluations, key=lambda evaluation: evaluation.title != first)


def without_copies(evaluations: Sequence[Evaluation], groups: Mapping[str, Sequence[Training]]) -> list[Evaluation]:
    """Leave out evaluations with the same weights, items and settings as an earlier one, which says so.

    Those of several seeds are kept, so that each of them counts.
    """
    kept: dict[str, Evaluation] = {}
    for number, evaluation in enumerate(evaluations):
        mark = evaluation.result.mark if run_of(evaluation, groups) is None else ""
        mark = mark or str(number)
        if mark in kept:
            note = f"{kept[mark].note}{evaluation.title} has the same weights and results as {kept[mark].title}. "
            kept[mark] = replace(kept[mark], note=note)
        else:
            kept[mark] = evaluation
    return list(kept.values())


# --- several seeds ---


def groups_of(trainings: Sequence[Training]) -> dict[str, list[Training]]:
    """Group the runs that differ by their seed alone, by their shared title."""
    by_title = {training.title: training for training in trainings}
    groups = group_by_seed({title: training.record for title, training in by_title.items()})
    return {shared_title(titles): [by_title[title] for title in titles] for titles in groups}


def run_of(evaluation: Evaluation, groups: Mapping[str, Sequence[Training]]) -> tuple[str, Training] | None:
    """Return the group of several runs, and of these the one that an evaluated checkpoint is of; None without one."""
    several = [(title, run) for title, group in groups.items() if len(group) > 1 for run in group]
    return next(((title, run) for title, run in several if is_of(evaluation, run)), None)


def is_of(evaluation: Evaluation, run: Training) -> bool:
    """Check whether an evaluated checkpoint is of a run, which may have been moved with the evaluation in it."""
    folder = Path(evaluation.result.ckpt).parent
    moved = folder.name == run.folder.resolve().name and evaluation.folder.is_relative_to(run.folder)
    return moved or folder.resolve() == run.folder.resolve()


def over_seeds(evaluations: Sequence[Evaluation], groups: Mapping[str, Sequence[Training]]) -> list[Evaluation]:
    """Merge the evaluations, made alike, of one checkpoint of each run of a group; leave the others as they are."""
    found: dict[tuple[str, ...], dict[Path, Evaluation]] = {}
    for evaluation in evaluations:
        group, run = run_of(evaluation, groups) or (evaluation.title, None)
        folder = evaluation.folder if run is None else run.folder
        key = (group,) if run is None else (group, *made_alike(evaluation, run))
        while folder in found.setdefault(key, {}):  # a second evaluation of the same kind
            key = (*key, "again")
        found[key][folder] = evaluation
    return [merged(list(by_run.values())) for by_run in found.values()]


def made_alike(evaluation: Evaluation, run: Training) -> list[str]:
    """Return what evaluations of several seeds must have in common: place, name of the checkpoint, judges and items."""
    inside = evaluation.folder.is_relative_to(run.folder)
    place = evaluation.folder.relative_to(run.folder).as_posix() if inside else ""
    result = evaluation.result
    judges = [*(result.title(name) for name in result.scores), result.speaker_judge, *other_judges(result)]
    items = sorted(f"{score.id} {score.text}" for scores in result.scores.values() for score in scores)
    return [place, Path(result.ckpt).name, *judges, *items]


def merged(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the evaluations of several seeds as one."""
    first, *others = evaluations
    return replace(
        first,
        title=shared_title([evaluation.title for evaluation in evaluations]),
        other_seeds=[evaluation.result for evaluation in others],
        note="".join(evaluation.note for evaluation in evaluations),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutClip:
    """Clip that a run saved while it trained, with the row of its table."""

    title: str
    path: Path
    row: dict[str, Any]


CLIPS = {"gen": "best of its group", "worst": "worst of its group", "ref": "recording"}


def sampled_updates(training: Training) -> list[int]:
    """List the updates at which a run saved samples."""
    names = (re.fullmatch(r"update_(\d+)_gen\.wav", path.name) for path in (training.folder / "samples").glob("*.wav"))
    return sorted(int(match[1]) for match in names if match)


def rollout_clips(training: Training, update: int) -> list[RolloutClip]:
    """Return the clips of an update, each with its row: the best and the worst sample of the first prompt."""
    stem = training.folder / "samples" / f"update_{update}"
    rows = [json.loads(line) for line in read_lines(stem.with_suffix(".jsonl"))]
    group = sorted((row for row in rows if row["group"] == rows[0]["group"]), key=lambda row: row["reward"] or 0.0)
    row_of = {"gen": group[-1], "worst": group[0], "ref": group[0]} if group else {}
    titles = {"gen": "sample", "ref": "recording"} if len(group) == 1 else CLIPS
    return [
        RolloutClip(title=title, path=path, row=row_of.get(name, {}))
        for name, title in titles.items()
        if (path := stem.with_name(f"{stem.name}_{name}.wav")).is_file()
    ]


def read_lines(path: Path) -> list[str]:
    """Read the lines of a file; none where it is missing."""
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
