"""A row on disk -> one utterance.

Layout: `data/<name>_<tokenizer>/raw` (a data set saved by the `datasets` library with the columns audio_path, text,
duration and, for pairs, speaker) and `duration.json` beside it ({"duration": [seconds, ...]}).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from f5_tts.data.audio import load_audio
from f5_tts.types import Utterance

Reader = Callable[[str], tuple[Tensor, Tensor]]  # a file -> its waveform and log-mel


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One recording: where it lies, what it says, how long it is (s), and who speaks."""

    audio_path: str
    text: str | list[str]  # a list holds the tokenizer's symbols, as F5-TTS's own preparation scripts write them
    duration: float
    speaker: str | None
    columns: Mapping[str, Any] = field(default_factory=dict)  # all that the data set says of it, for rewards


def read_rows(directory: Path) -> list[Row]:
    """The rows of a data set folder.

    Raises FileNotFoundError when a part of the layout is missing, ValueError when the parts disagree or are empty.
    """
    durations = read_durations(directory / "duration.json")
    from datasets import Dataset as Table  # takes a second to import

    table = Table.load_from_disk(str(directory / "raw"))
    missing = {"audio_path", "text"} - set(table.column_names)
    if missing:
        raise ValueError(f"{directory / 'raw'} has no column {sorted(missing)}: it needs audio_path, text, duration")
    if len(table) != len(durations):
        raise ValueError(f"{directory}: raw/ holds {len(table)} rows, duration.json {len(durations)}: make both anew")
    rows = zip(table.to_list(), durations, strict=True)
    return [
        Row(audio_path=row["audio_path"], text=row["text"], duration=seconds, speaker=row.get("speaker"), columns=row)
        for row, seconds in rows
    ]


def read_durations(path: Path) -> list[float]:
    """Seconds of each row, from duration.json."""
    if not (path.parent / "raw").is_dir():
        raise FileNotFoundError(
            f"no data set at {path.parent}: expected {path.parent / 'raw'} and {path} "
            "(the folder is data/<datasets.name>_<model.tokenizer>, seen from where you stand)"
        )
    if not path.is_file():
        raise FileNotFoundError(f'no {path}: it must hold {{"duration": [seconds of each row]}}')
    try:
        durations = [float(seconds) for seconds in json.loads(path.read_text(encoding="utf-8"))["duration"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is not {{"duration": [seconds of each row]}}: {error!r}') from error
    if not durations:
        raise ValueError(f"{path} lists no durations: the data set is empty")
    wrong = [index for index, seconds in enumerate(durations) if not 0 < seconds < math.inf]
    if wrong:
        raise ValueError(f"{path}: row {wrong[0]} lasts {durations[wrong[0]]} s; a duration is a number above 0")
    return durations


class SpeechDataset(Dataset[Utterance]):
    """Utterances by (epoch, index); with pairs, another recording of the same speaker comes first, as the prompt."""

    def __init__(self, rows: list[Row], read: Reader, *, pairs: bool, seed: int) -> None:
        self.rows, self.read, self.pairs, self.seed = rows, read, pairs, seed
        self.by_speaker: dict[str | None, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            self.by_speaker[row.speaker].append(index)
        alone = sorted(str(who) for who, indices in self.by_speaker.items() if who is None or len(indices) < 2)
        if pairs and alone:
            raise ValueError(f"datasets.pair_speakers needs two rows of each speaker; too few for {alone[:5]}")

    def partners(self, epoch: int) -> list[int]:
        """For each row, the row of the same speaker that is its prompt in this epoch."""
        draw = np.random.default_rng([self.seed, epoch])
        partners = []
        for index, row in enumerate(self.rows):
            others = self.by_speaker[row.speaker]
            place = int(draw.integers(len(others) - 1))
            partners.append(others[place] if others[place] != index else others[-1])
        return partners

    def durations(self, epoch: int) -> list[float]:
        """Seconds of each item in this epoch, its prompt included."""
        own = [row.duration for row in self.rows]
        return [s + own[p] for s, p in zip(own, self.partners(epoch), strict=True)] if self.pairs else own

    def __getitem__(self, key: tuple[int, int, int]) -> Utterance:
        """`key` is (index of the row, index of its prompt's row or -1, the batch-wide id of the item)."""
        index, partner, prompt_id = key
        row = self.rows[index]
        audio, mel = self.read(row.audio_path)
        utterance = partial(Utterance, target_text="".join(row.text), prompt_id=prompt_id, row=row.columns)
        if partner < 0:
            return utterance(audio=audio, mel=mel, prompt_frames=0, text=row.text)
        before = self.rows[partner]
        prompt_audio, prompt = self.read(before.audio_path)
        return utterance(
            audio=torch.cat([prompt_audio, audio]),
            mel=torch.cat([prompt, mel]),
            prompt_frames=len(prompt),
            text=in_a_row(before.text, row.text),
            prompt_text="".join(before.text),
        )


def in_a_row(first: str | list[str], second: str | list[str]) -> str | list[str]:
    """Two texts with a space between them; of symbols, if either comes as a list."""
    if isinstance(first, str) and isinstance(second, str):
        return f"{first} {second}"
    return [*first, " ", *second]


@dataclass(frozen=True, slots=True)
class AudioReader:
    """Reads an audio file into its waveform and log-mel; a class, so that loading processes can be sent one."""

    to_mel: Callable[[Tensor], Tensor]
    sample_rate: int  # Hz

    def __call__(self, path: str) -> tuple[Float[Tensor, " nw"], Float[Tensor, "n d"]]:
        audio = load_audio(path, self.sample_rate)
        return audio, self.to_mel(audio[None])[0]
