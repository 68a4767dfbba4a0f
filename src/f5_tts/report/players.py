"""Players of the report: the sentences that all models speak, and the samples of a training, with their audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from f5_tts.eval.examples import Example, read_examples
from f5_tts.eval.statistics import Score
from f5_tts.report.clips import Clip
from f5_tts.report.sources import Evaluation, Training, rollout_clips, sampled_updates
from f5_tts.report.table import asr_title
from f5_tts.report.transcripts import mark_errors
from f5_tts.report.verdict import shared_judge

MAX_AUDIO = 8_500_000  # characters of all clips and pictures; the whole page stays below 10 MB
MAX_UPDATES = 4  # of a run whose samples are shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What a recognizer heard, with the errors marked."""

    by: str
    words: Markup
    errors: int


@dataclass(kw_only=True, slots=True)
class Player:
    """Clip on the page; audio and picture are filled in when all clips are known."""

    title: str  # of the model, or what the clip is
    label: str  # what a screen reader says
    path: Path
    heard: Sequence[Heard] = ()
    notes: Sequence[str] = ()
    errors: int = 0  # by the judge that decides
    audio: str = ""
    picture: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """Text, its prompt, and the clips of all models."""

    id: str
    text: str
    prompt_text: str
    prompt: Player | None
    versions: Sequence[Player]

    @property
    def players(self) -> list[Player]:
        """Return all players."""
        return [*([] if self.prompt is None else [self.prompt]), *self.versions]

    @property
    def fewer_errors(self) -> int:
        """Return by how many words the model after the first one is better."""
        return self.versions[0].errors - self.versions[:2][-1].errors


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledUpdate:
    """Samples that a run saved at one update."""

    run: str
    update: int
    text: str
    players: Sequence[Player]


def sentences_of(evaluations: Sequence[Evaluation], judge: str | None) -> list[Sentence]:
    """Collect the sentences that all evaluations have a clip of, in the order of the first one."""
    examples = {evaluation.title: read_examples(evaluation.folder) for evaluation in evaluations}
    spoken = [evaluation for evaluation in evaluations if examples[evaluation.title]]
    if not spoken:
        return []
    shared = [name for name in examples[spoken[0].title] if all(name in examples[e.title] for e in spoken)]
    scores = {e.title: {name: by_id(e.result.scores[name]) for name in e.result.scores} for e in spoken}
    return [
        sentence_of(name, [(e, examples[e.title][name]) for e in spoken], scores, judge)
        for name in shared
        if all(name in by for e in spoken for by in scores[e.title].values())
    ]


def by_id(scores: Sequence[Score]) -> dict[str, Score]:
    """Return the score of the first take of each item."""
    return {score.id: score for score in reversed(scores)}


def sentence_of(
    name: str,
    found: Sequence[tuple[Evaluation, Example]],
    scores: Mapping[str, Mapping[str, Mapping[str, Score]]],
    judge: str | None,
) -> Sentence:
    """Build the sentence with this id."""
    first, example = found[0]
    text = example.text or next(iter(scores[first.title].values()))[name].text or name
    prompt = first.folder / example.prompt
    said = example.prompt_text
    recording = Player(title="prompt", label=f"prompt: {said}", path=prompt, notes=[said] if said else [])
    versions = []
    for evaluation, own in found:
        by_recognizer = {asr: scores[evaluation.title][asr][name] for asr in evaluation.result.scores}
        decides = shared_judge(first, evaluation, judge)
        score = by_recognizer[decides or next(iter(by_recognizer))]
        versions.append(
            Player(
                title=evaluation.title,
                label=f"{evaluation.title}: {text}",
                path=evaluation.folder / own.clip,
                heard=[heard_by(evaluation, asr, each) for asr, each in by_recognizer.items()],
                notes=[
                    f"similarity {score.similarity:.2f}",
                    *(f"{k} {v:.2f}" for k, v in score.opinions.items() if v == v),
                ],
                errors=score.edits,
            )
        )
    return Sentence(
        id=name,
        text=text,
        prompt_text=example.prompt_text,
        prompt=recording if prompt.is_file() else None,
        versions=versions,
    )


def heard_by(evaluation: Evaluation, recognizer: str, score: Score) -> Heard:
    """Mark the errors in a transcript; results of earlier versions lack the text, and so have no marks."""
    words = mark_errors(score.text, score.hypothesis) if score.text else Markup("{}").format(score.hypothesis)
    return Heard(
        by=asr_title(evaluation.result, recognizer, evaluation.result.rewards), words=words, errors=score.edits
    )


def sampled_of(trainings: Sequence[Training]) -> list[SampledUpdate]:
    """Collect the samples of the first and the last updates that each run saved some at."""
    found = []
    for training in trainings:
        updates = sampled_updates(training)
        for update in updates[:1] + updates[1:][-(MAX_UPDATES - 1) :]:
            clips = rollout_clips(training, update)
            text = next((str(clip.row["text"]) for clip in clips if "text" in clip.row), "")
            players = [
                Player(
                    title=clip.title,
                    label=f"{training.title}, update {update}, {clip.title}: {text}",
                    path=clip.path,
                    notes=[] if clip.title == "recording" else notes_of(clip.row),
                )
                for clip in clips
            ]
            found.append(SampledUpdate(run=training.title, update=update, text=text, players=players))
    return found


def notes_of(row: Mapping[str, Any]) -> list[str]:
    """Format what a run measured of a sample."""
    heard = [f"heard: {text}" for name, text in row.items() if name.endswith(".heard")]
    return [*heard, *([f"reward {row['reward']:.3g}"] if row.get("reward") is not None else [])]


def embed_audio(sentences: Sequence[Sentence], sampled: Sequence[SampledUpdate]) -> list[Sentence]:
    """Fill in audio and pictures, lossless if all clips fit; return the sentences that there is room for."""
    groups = [sentence.players for sentence in sentences] + [update.players for update in sampled]
    clips = {player.path: Clip.read(player.path) for group in groups for player in group}
    lossless = {path: clip.audio("FLAC") for path, clip in clips.items()}
    pictures = {path: clip.spectrogram() for path, clip in clips.items()}
    size = sum(len(lossless[player.path]) + len(pictures[player.path]) for group in groups for player in group)
    audio = lossless if size <= MAX_AUDIO else {path: clip.audio("MP3") for path, clip in clips.items()}
    room, kept = MAX_AUDIO, []
    for index, group in enumerate(groups):
        size = sum(len(audio[player.path]) + len(pictures[player.path]) for player in group)
        if size > room:
            continue
        room -= size
        for player in group:
            player.audio, player.picture = audio[player.path], pictures[player.path]
        kept += sentences[index : index + 1]
    return kept
