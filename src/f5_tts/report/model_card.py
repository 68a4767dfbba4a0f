"""Model card of an export: README.md with metadata for the Hugging Face hub, clips, and a config for `-mc`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from f5_tts.eval.results import Result
from f5_tts.eval.statistics import bootstrap_interval, similarities, word_errors
from f5_tts.files import write_atomically
from f5_tts.model.checkpoint import Checkpoint
from f5_tts.report.table import Table, decimals, percent

CARD, CONFIG, CLIPS = "README.md", "config.yaml", "samples"
MAX_CLIPS = 3
PUBLISHED = "SWivid/F5-TTS"  # the base of models of a published size, unless it is named
LICENSES = {"SWivid/F5-TTS": "cc-by-nc-4.0", "SWivid/E2-TTS": "cc-by-nc-4.0"}  # of base models
NONCOMMERCIAL = "cc-by-nc"  # beginning of the licenses that a model made from such a base may have
IN_CONFIG = ("name", "tokenizer", "backbone", "arch", "mel_spec", "vocoder")  # keys of `model` that synthesis needs
OF_TRAINING = (
    *("model.objective", "rl.algorithm", "rl.group_size", "rl.steps", "rl.kl_weight"),
    *("optim.learning_rate", "optim.seed", "the data set"),
)  # settings of the run that the card lists, as far as the checkpoint records them


@dataclass(frozen=True, kw_only=True)
class CardDetails:
    """What the card says and no file of the run holds; all of it may be missing."""

    base_model: str | None = None  # name on the hub
    license: str | None = None  # identifier of the hub, e.g. cc-by-nc-4.0; None: that of the base
    languages: Sequence[str] = field(default_factory=list)
    datasets: Sequence[str] = field(default_factory=list)


def license_of(details: CardDetails) -> str | None:
    """Return the license of the model: the one given, else that of its base; None if neither is known.

    Raises ValueError where the base is for noncommercial use and the given license is not.
    """
    base = LICENSES.get(details.base_model or "")
    if details.license and base and not details.license.lower().startswith(NONCOMMERCIAL):
        raise ValueError(
            f"--license {details.license}: {details.base_model} has the license {base}, and a model made from it may "
            f"not be licensed for more; leave --license out, or give {base}"
        )
    return details.license or base


def write_card(
    checkpoint: Checkpoint,
    weights: Path,
    details: CardDetails,
    evaluation: Path | None = None,
    result: Result | None = None,
) -> list[Path]:
    """Write README.md, config.yaml and clips beside exported weights; return what was written.

    Args:
        evaluation: folder of `result`, whose `wavs` are the clips.
    """
    folder, spec = weights.parent, checkpoint.spec
    copies = [] if evaluation is None else copy_clips(evaluation, folder)
    sections = [metadata(weights.stem, details, result), f"# {folder.resolve().name}", introduction(details)]
    sections += [usage(weights, checkpoint), training(checkpoint)]
    sections += [] if result is None else [results(result)]
    sections += [clips(copies)] if copies else []
    card = write_text(folder / CARD, "\n\n".join([*sections, versions()]) + "\n")
    if spec is None:
        return [card, *copies]
    config = {"model": {key: spec.model[key] for key in IN_CONFIG if key in spec.model}}
    return [card, write_text(folder / CONFIG, yaml.safe_dump(config, sort_keys=False)), *copies]


def metadata(name: str, details: CardDetails, result: Result | None) -> str:
    """Format the metadata that the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData  # takes a second to import

    measured = (
        []
        if result is None
        else [
            EvalResult(
                task_type="text-to-speech",
                dataset_type="custom",
                dataset_name="held-out test set",
                metric_type="wer",
                metric_name=f"word error rate by {result.title(asr)}",
                metric_value=round(bootstrap_interval(result.unseen(asr), word_errors).value, 4),
            )
            for asr in result.scores
        ]
    )
    data = ModelCardData(
        language=list(details.languages) or None,
        license=license_of(details),
        base_model=details.base_model,
        datasets=list(details.datasets) or None,
        pipeline_tag="text-to-speech",
        library_name="f5-tts",
        tags=["f5-tts", "flow-matching", "voice-cloning"],
        model_name=name if measured else None,
        eval_results=measured or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def introduction(details: CardDetails) -> str:
    """Say what the model is and what it was made from."""
    base = (
        f", made from [{details.base_model}](https://huggingface.co/{details.base_model})" if details.base_model else ""
    )
    return f"A text-to-speech model in the format of F5-TTS{base}, trained with f5-tts-rl."


def usage(weights: Path, checkpoint: Checkpoint) -> str:
    """Show the command that speaks with the model."""
    config = f" -mc {CONFIG}" if checkpoint.spec is not None else ""
    command = (
        f"f5-tts_infer-cli{config} -p {weights.name} -v vocab.txt -r voice.wav -s 'what voice.wav says' -t 'Hello.'"
    )
    return f"## Use\n\n```bash\n{command}\n```"


def training(checkpoint: Checkpoint) -> str:
    """List how the model was trained, as far as the checkpoint says."""
    settings: Mapping[str, Any] = checkpoint.payload.get("settings", {})
    lines = [f"- `{key}`: {settings[key]}" for key in OF_TRAINING if settings.get(key) is not None]
    if rewards := rewards_of(settings):
        lines.append(f"- rewards: {rewards}")
    lines = lines or ["- The checkpoint does not record its settings."]
    weights = "running average (EMA) of the" if checkpoint.weights_kind == "ema" else "raw"
    return "\n".join(["## Training", "", f"The {weights} weights after {checkpoint.update} updates:", "", *lines])


def rewards_of(settings: Mapping[str, Any]) -> str:
    """Format the names and weights of a run's rewards; empty where it had none."""
    names = {key: value for key, value in settings.items() if re.fullmatch(r"rl\.rewards\.providers\.\d+\.name", key)}
    weights = [settings.get(f"{key.removesuffix('name')}weight", 1.0) for key in names]
    return ", ".join(f"{name} (weight {weight:g})" for name, weight in zip(names.values(), weights, strict=True))


def results(result: Result) -> str:
    """Format the held-out results with their intervals."""
    rows = [
        [result.title(asr), percent(bootstrap_interval(result.unseen(asr), word_errors)), str(len(result.unseen(asr)))]
        for asr in result.scores
    ]
    first = result.unseen(next(iter(result.scores)))
    similarity = decimals(bootstrap_interval(first, similarities))
    guidance = [f" Guidance strength: {strength:g}." for strength in result.guidance.values()][:1]
    table = Table(
        caption="Unseen voices, with 95 % intervals over items",
        header=["recognizer", "word error rate", "clips"],
        rows=rows,
    )
    return (
        f"## Results\n\n{table.markdown()}\nSimilarity to the prompt's voice by {result.speaker_judge}: {similarity}."
        + "".join(guidance)
    )


def copy_clips(evaluation: Path, folder: Path) -> list[Path]:
    """Copy the first clips of an evaluation to `samples`; return their paths."""
    copies = []
    for clip in sorted((evaluation / "wavs").glob("*.wav"))[:MAX_CLIPS]:
        (folder / CLIPS).mkdir(parents=True, exist_ok=True)
        copies.append(Path(shutil.copyfile(clip, folder / CLIPS / clip.name)))
    return copies


def clips(copies: Sequence[Path]) -> str:
    """List the clips as players, which the hub shows."""
    return "\n".join(["## Clips", "", *(f'<audio controls src="{CLIPS}/{path.name}"></audio>' for path in copies)])


def versions() -> str:
    """Name the versions that made the export."""
    names = ("f5-tts-rl", "torch")
    return "## Versions\n\n" + ", ".join(f"{name} {version(name)}" for name in names)


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically; return its path."""
    write_atomically(path, lambda tmp_path: tmp_path.write_text(text, encoding="utf-8"))
    return path
