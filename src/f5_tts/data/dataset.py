"""Data set of utterances: one row becomes one utterance, or the reason why it cannot."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from f5_tts.data.audio import BadAudio, Source, load_audio
from f5_tts.data.rows import SPEAKER_COLUMNS, Row
from f5_tts.data.texts import TextRules
from f5_tts.types import BadRow, Utterance

ANY_TEXT = TextRules()
Reader = Callable[[Source], tuple[Tensor, Tensor]]  # recording -> waveform and log-mel


class SpeechDataset(Dataset[Utterance | BadRow]):
    """Utterances by key; with `pair_speakers`, another recording of the same speaker precedes each as its prompt."""

    def __init__(
        self, rows: list[Row], read: Reader, *, pair_speakers: bool, seed: int, rules: TextRules = ANY_TEXT
    ) -> None:
        self.rows, self.read, self.pair_speakers, self.seed, self.rules = rows, read, pair_speakers, seed, rules
        self.by_speaker: dict[str | None, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            self.by_speaker[row.speaker].append(index)
        if pair_speakers:
            self.check_pairs()

    def check_pairs(self) -> None:
        """Raise ValueError unless each speaker is known and has two rows."""
        alone = sorted(
            speaker for speaker, indices in self.by_speaker.items() if speaker is not None and len(indices) < 2
        )
        unknown = len(self.by_speaker.get(None, []))
        found = [f"{', '.join(alone[:5])} {'has' if len(alone) == 1 else 'have'} one"] if alone else []
        found += [f"{unknown} rows name no speaker"] if unknown else []
        if found:
            raise ValueError(
                f"datasets.pair_speakers=true needs two rows of each speaker (column {' or '.join(SPEAKER_COLUMNS)}), "
                f"and {' and '.join(found)}: remove these rows, or set datasets.pair_speakers=false (and in stage 2 "
                "rl.prompt_frac_range=[0.1,0.3])"
            )

    def prompt_indices(self, epoch: int) -> list[int]:
        """Draw, for each row, the row of the same speaker that is its prompt in this epoch."""
        draw = np.random.default_rng([self.seed, epoch])
        indices = []
        for index, row in enumerate(self.rows):
            candidates = self.by_speaker[row.speaker]
            choice = int(draw.integers(len(candidates) - 1))
            indices.append(candidates[choice] if candidates[choice] != index else candidates[-1])
        return indices

    def durations(self, epoch: int) -> list[float]:
        """Return the seconds of each item in this epoch, its prompt included."""
        durations = [row.duration for row in self.rows]
        return (
            [s + durations[p] for s, p in zip(durations, self.prompt_indices(epoch), strict=True)]
            if self.pair_speakers
            else durations
        )

    def __getitem__(self, key: tuple[int, int, int]) -> Utterance | BadRow:
        """Read the item of a key (row index, index of the prompt's row or -1, id of the item within its batch)."""
        index, prompt_index, prompt_id = key
        row = self.rows[index]
        if isinstance(loaded := self.load_row(index), BadRow):
            return loaded
        audio, mel = loaded
        utterance = partial(Utterance, target_text=row.sentence, prompt_id=prompt_id, row=row.columns)
        if prompt_index < 0:
            return utterance(audio=audio, mel=mel, prompt_frames=0, text=row.text)
        prompt_row = self.rows[prompt_index]
        if isinstance(loaded := self.load_row(prompt_index), BadRow):
            return loaded
        prompt_audio, prompt = loaded
        return utterance(
            audio=torch.cat([prompt_audio, audio]),
            mel=torch.cat([prompt, mel]),
            prompt_frames=len(prompt),
            text=join_texts(prompt_row.text, row.text),
            prompt_text=prompt_row.sentence,
        )

    def load_row(self, index: int) -> tuple[Tensor, Tensor] | BadRow:
        """Read the waveform and log-mel of a row, or return a BadRow with the reason why it cannot be used."""
        row = self.rows[index]
        bad = partial(BadRow, index=index, path=str(row.audio_path))
        if problem := self.rules.problem(row):
            return bad(kind=problem[0], reason=problem[1])
        try:
            return self.read(row.audio_path)
        except BadAudio as error:
            return bad(kind=error.kind, reason=str(error))


def join_texts(first: str | list[str], second: str | list[str]) -> str | list[str]:
    """Join two texts with a space; if either is a list of symbols, so is the result."""
    if isinstance(first, str) and isinstance(second, str):
        return f"{first} {second}"
    return [*first, " ", *second]


@dataclass(frozen=True, slots=True)
class AudioReader:
    """Reader of a recording's waveform and log-mel; a class, so that it can be sent to loading processes."""

    to_mel: Callable[[Tensor], Tensor]
    sample_rate: int  # Hz
    max_seconds: float = math.inf  # longer recordings are BadAudio

    def __call__(self, source: Source) -> tuple[Float[Tensor, " nw"], Float[Tensor, "n d"]]:
        """Read a recording: its waveform, and its log-mel with frames first; raise BadAudio as `load_audio` does."""
        audio = load_audio(source, self.sample_rate, self.max_seconds)
        return audio, self.to_mel(audio[None])[0]
