"""Batches: which items form a batch, in what order, and how they are padded into a SpeechBatch.

The order depends on the seed, the epoch, the data and the number of ranks alone, so a resumed run continues at any
batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from f5_tts.config.schema import DatasetsConfig
from f5_tts.console import make_output_safe
from f5_tts.data.dataset import SpeechDataset
from f5_tts.data.rows import Row
from f5_tts.data.tokenizer import Vocabulary
from f5_tts.data.workers import count_workers, read_with_restarts, receive_sigterm, worker_context
from f5_tts.types import BadRow, SpeechBatch, Utterance

BUCKET_POOL = 16  # batches per pool of random items, which is sorted by length


class LoadedBatch(NamedTuple):
    """Result of reading the rows of a batch."""

    batch: SpeechBatch | None  # the readable rows; None if there are none
    bad_rows: list[BadRow]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """Batches of every epoch of a run, each a list of keys of the data set."""

    dataset: SpeechDataset
    settings: DatasetsConfig
    frames_per_second: float
    seed: int
    held_out: Sequence[Row] = ()  # rows of the data set that the run does not train on

    def epoch(self, epoch: int, ranks: int = 1) -> list[list[tuple[int, int, int]]]:
        """List the batches of one epoch, in order."""
        frames = self.frames(epoch)
        if self.settings.batch_size_type == "frame":
            batches = by_frames(frames, self.settings, self.seed, epoch)
        else:
            batches = by_count(frames, self.settings, self.seed, epoch, ranks)
        prompt_indices = self.dataset.prompt_indices(epoch) if self.dataset.pair_speakers else [-1] * len(frames)
        return [[(i, prompt_indices[i], i) for i in batch] for batch in batches]

    def frames(self, epoch: int) -> np.ndarray:
        """Return the number of frames of each item in this epoch, its prompt included."""
        return np.array(self.dataset.durations(epoch)) * self.frames_per_second

    def num_too_long(self) -> int:
        """Count the items of the first epoch that have more frames than a whole batch and are left out.

        Raises:
            ValueError: no item is left.
        """
        budget, frames = self.settings.batch_size_per_gpu, self.frames(0)
        if self.settings.batch_size_type != "frame":
            return 0
        if frames.min() > budget:
            raise ValueError(
                f"datasets.batch_size_per_gpu={budget} frames; the shortest item has {frames.min():.0f}: raise it"
            )
        return int((frames > budget).sum())

    def batches(self, first: int, epochs: int | None = None, ranks: int = 1) -> Iterator[list[tuple[int, int, int]]]:
        """Yield all batches of a run, from number `first` on; without a number of epochs they never end."""
        for epoch in count() if epochs is None else range(epochs):
            batches = self.epoch(epoch, ranks)
            yield from batches[first:]
            first = max(0, first - len(batches))


def by_count(frames: np.ndarray, settings: DatasetsConfig, seed: int, epoch: int, ranks: int = 1) -> list[list[int]]:
    """Split shuffled items into batches of `batch_size_per_gpu`, where one batch may be smaller.

    Items are sorted by length within pools of batches, which reduces padding.
    """
    size, draw = settings.batch_size_per_gpu, np.random.default_rng([seed, epoch, 1])
    pools = np.split(draw.permutation(len(frames)), range(BUCKET_POOL * size, len(frames), BUCKET_POOL * size))
    order = np.concatenate([pool[np.argsort(frames[pool], kind="stable")] for pool in pools])
    batches = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    return [batches[i] for i in shuffle_blocks(len(batches), epoch, ranks, draw)]


def shuffle_blocks(num: int, epoch: int, ranks: int, draw: np.random.Generator) -> list[int]:
    """Shuffle the batches of an epoch in blocks of neighbors, one for each rank.

    Neighbors are about as long as each other, so no rank waits for a longer batch. The first batches complete the block
    that the epoch before could not fill.
    """
    first = min(-epoch * num % ranks, num)
    blocks, rest = divmod(num - first, ranks)
    shuffled = first + ranks * draw.permutation(blocks)[:, None] + np.arange(ranks)
    return [*range(first), *shuffled.flatten().tolist(), *range(num - rest, num)]


def by_frames(frames: np.ndarray, settings: DatasetsConfig, seed: int, epoch: int) -> list[list[int]]:
    """Make the batches of F5-TTS: items of similar length, up to `batch_size_per_gpu` frames and `max_samples` items.

    Frames are counted without padding, which is small among items of similar length. Items longer than a whole batch
    are left out (`BatchPlan.num_too_long` counts them).
    """
    budget, batches, total = settings.batch_size_per_gpu, [[]], 0.0
    for index in np.argsort(frames, kind="stable").tolist():
        is_full = total + frames[index] > budget or len(batches[-1]) == settings.max_samples > 0
        if is_full and batches[-1]:
            batches.append([])
            total = 0.0
        if frames[index] <= budget:
            batches[-1].append(index)
            total += frames[index]
    filled = [batch for batch in batches if batch]
    return [filled[i] for i in torch.randperm(len(filled), generator=torch.Generator().manual_seed(seed + epoch))]


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
        prompt_texts=[item.prompt_text for item in items],
        rows=[item.row for item in items],
    )


def collate_good(items: Sequence[Utterance | BadRow], vocabulary: Vocabulary) -> LoadedBatch:
    """Collate the readable rows, and return the unreadable ones beside the batch."""
    good = [item for item in items if isinstance(item, Utterance)]
    bad_rows = [item for item in items if isinstance(item, BadRow)]
    return LoadedBatch(collate(good, vocabulary) if good else None, bad_rows)


def load_batches(
    plan: BatchPlan,
    vocabulary: Vocabulary,
    *,
    first: int,
    epochs: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[LoadedBatch]:
    """Yield the batches of a run from number `first` on, read by `datasets.num_workers` processes.

    Of `world_size` ranks, rank `rank` gets every `world_size`-th batch; `first` counts the batches of all ranks.
    """

    def start(done: int) -> DataLoader[LoadedBatch]:
        batches = islice(plan.batches(first + done * world_size, epochs, world_size), rank, None, world_size)
        return build_loader(plan, vocabulary, batches)

    yield from read_with_restarts(start, count_workers(plan.settings.num_workers))


def build_loader(
    plan: BatchPlan, vocabulary: Vocabulary, batches: Iterator[list[tuple[int, int, int]]]
) -> DataLoader[Any]:
    """Build a loader of batches, each a list of keys of the data set."""
    workers = count_workers(plan.settings.num_workers)
    return DataLoader(
        plan.dataset,
        batch_sampler=batches,  # pyright: ignore[reportArgumentType]  # any iterable of key lists
        num_workers=workers,
        collate_fn=partial(collate_good, vocabulary=vocabulary),
        # without it, the loader draws from the global random state, which must resume exactly
        generator=torch.Generator(),
        multiprocessing_context=worker_context() if workers else None,
        worker_init_fn=start_worker if workers else None,
    )


def start_worker(worker: int) -> None:
    """Start a process group of its own for a data-loading worker, which takes its number as an argument.

    Signals to the training process's group (Ctrl-C, a launcher) then reach the training process alone, which needs the
    worker to finish its update. The worker exits by itself when nothing reads from it any more.
    """
    make_output_safe()
    receive_sigterm()
    if hasattr(os, "setsid"):
        os.setsid()
