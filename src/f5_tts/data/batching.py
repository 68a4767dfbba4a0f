"""Which items form a batch, in what order, and how they are padded into a SpeechBatch.

The order is a function of the seed, the epoch and the data alone: a resumed run goes on at any batch of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from f5_tts.config import DatasetsConfig
from f5_tts.data.dataset import SpeechDataset
from f5_tts.data.text import Vocabulary
from f5_tts.types import SpeechBatch, Utterance

POOL = 16  # batches drawn at random together and cut by length among themselves


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """The batches of every epoch of one run, each a list of keys of the data set."""

    dataset: SpeechDataset
    settings: DatasetsConfig
    frames_per_second: float
    seed: int

    def epoch(self, epoch: int) -> list[list[tuple[int, int, int]]]:
        """The batches of one epoch, in order."""
        frames = np.array(self.dataset.durations(epoch)) * self.frames_per_second
        draw = np.random.default_rng([self.seed, epoch, 1])
        split = by_frames if self.settings.batch_size_type == "frame" else by_count
        partners = self.dataset.partners(epoch) if self.dataset.pairs else [-1] * len(frames)
        return [[(i, partners[i], i) for i in batch] for batch in split(frames, self.settings, draw)]

    def batches(self, first: int, epochs: int) -> Iterator[list[tuple[int, int, int]]]:
        """All batches of a run of `epochs`, from number `first` on."""
        for epoch in range(epochs):
            batches = self.epoch(epoch)
            yield from batches[first:]
            first = max(0, first - len(batches))


def by_count(frames: np.ndarray, settings: DatasetsConfig, draw: np.random.Generator) -> list[list[int]]:
    """Shuffled items, `batch_size_per_gpu` a batch, one batch perhaps smaller; neighbours in length, to pad less."""
    size = settings.batch_size_per_gpu
    pools = np.split(draw.permutation(len(frames)), range(POOL * size, len(frames), POOL * size))
    order = np.concatenate([pool[np.argsort(frames[pool], kind="stable")] for pool in pools])
    batches = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    return [batches[i] for i in draw.permutation(len(batches))]


def by_frames(frames: np.ndarray, settings: DatasetsConfig, draw: np.random.Generator) -> list[list[int]]:
    """Items of like length, as many as fit `batch_size_per_gpu` frames and `max_samples`; batches shuffled."""
    longest = int(frames.argmax())
    if frames[longest] > settings.batch_size_per_gpu:
        raise ValueError(
            f"row {longest} has {frames[longest]:.0f} frames, more than datasets.batch_size_per_gpu="
            f"{settings.batch_size_per_gpu} allows in a batch: raise it or leave the row out"
        )
    batches: list[list[int]] = [[]]
    for index in np.argsort(frames, kind="stable").tolist():
        full = (len(batches[-1]) + 1) * frames[index] > settings.batch_size_per_gpu
        if batches[-1] and (full or len(batches[-1]) == settings.max_samples > 0):
            batches.append([])
        batches[-1].append(index)
    return [batches[i] for i in draw.permutation(len(batches))]


def collate(items: Sequence[Utterance], vocabulary: Vocabulary) -> SpeechBatch:
    """Pad utterances into one batch."""
    return SpeechBatch(
        mel=pad_sequence([item.mel for item in items], batch_first=True),
        lens=torch.tensor([len(item.mel) for item in items]),
        prompt_lens=torch.tensor([item.prompt_frames for item in items]),
        text=vocabulary.encode([item.text for item in items]),
        target_texts=[item.target_text for item in items],
        group_ids=torch.tensor([item.prompt_id for item in items]),
        audio=[item.audio for item in items],
    )


def load_batches(plan: BatchPlan, vocabulary: Vocabulary, *, first: int, epochs: int) -> Iterator[SpeechBatch]:
    """The batches of a run from number `first` on, read by `datasets.num_workers` processes."""
    workers = plan.settings.num_workers
    loader = DataLoader(
        plan.dataset,
        batch_sampler=plan.batches(first, epochs),  # pyright: ignore[reportArgumentType]  # any iterable of key lists
        num_workers=workers,
        collate_fn=partial(collate, vocabulary=vocabulary),
        generator=torch.Generator(),  # else starting to read draws from the random state of the update at hand
        multiprocessing_context="spawn" if workers else None,
    )
    yield from loader
