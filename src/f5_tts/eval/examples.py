"""Examples of an evaluation: the clips that it keeps, with their texts and prompts, in `examples.jsonl`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from f5_tts.data.audio import write_wav
from f5_tts.eval.evaluator import EvalAudio
from f5_tts.eval.test_set import EvalItem
from f5_tts.files import write_atomically

FILE, CLIPS, PROMPTS = "examples.jsonl", "wavs", "prompts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """Item whose clip is kept; paths are relative to the folder of the evaluation."""

    id: str
    text: str  # empty for evaluations of earlier versions, like the prompt
    prompt_text: str
    prompt: str
    clip: str


def keep_examples(
    folder: Path, items: Sequence[EvalItem], clips: Sequence[Tensor], chosen: Sequence[str], reader: EvalAudio
) -> None:
    """Write the first clip of each chosen item and its prompt as WAV files, and the list of them."""
    examples = []
    for item, clip in zip(items, clips, strict=False):  # later clips are further takes
        if item.id not in chosen:
            continue
        example = Example(
            id=item.id,
            text=item.text,
            prompt_text=item.prompt_text,
            prompt=f"{PROMPTS}/{item.id}.wav",
            clip=f"{CLIPS}/{item.id}.wav",
        )
        write_wav(folder / example.clip, clip, reader.sample_rate)
        write_wav(folder / example.prompt, reader.prompt(item), reader.sample_rate)
        examples.append(example)
    lines = "".join(json.dumps(asdict(example), ensure_ascii=False) + "\n" for example in examples)
    write_atomically(folder / FILE, lambda part: part.write_text(lines, encoding="utf-8"))


def copy_examples(source: Path, folder: Path) -> None:
    """Copy the examples of one evaluation to another one of the same weights."""
    for name in (CLIPS, PROMPTS):
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
    if (source / FILE).is_file():
        shutil.copyfile(source / FILE, folder / FILE)


def read_examples(folder: Path) -> dict[str, Example]:
    """Return the examples of an evaluation by id; those of earlier versions have clips alone."""
    path = folder / FILE
    if not path.is_file():
        clips = sorted((folder / CLIPS).glob("*.wav"))
        return {
            clip.stem: Example(id=clip.stem, text="", prompt_text="", prompt="", clip=f"{CLIPS}/{clip.name}")
            for clip in clips
        }
    try:
        rows = [Example(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): evaluate again, with eval.out={folder}") from error
    return {example.id: example for example in rows if (folder / example.clip).is_file()}
