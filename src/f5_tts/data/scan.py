"""Recordings heard from beginning to end, by several processes: how long each is, or what is wrong with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import ceil
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TypeVar

from tqdm import tqdm

from f5_tts.data.audio import BadAudio, Source, check_samples, read_samples

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK_SIZE = 16  # items that go to a process together


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What training would find: seconds, or the kind of what is wrong, and a sentence about it."""

    seconds: float | None
    kind: str = ""
    reason: str = ""


def scan_recording(source: Source, max_seconds: float) -> ScanResult:
    try:
        samples, rate = read_samples(source, max_seconds)
        check_samples(samples, rate, source)
    except BadAudio as error:
        return ScanResult(None, error.kind, str(error))
    return ScanResult(len(samples) / rate)


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str, done: int = 0
) -> Iterator[Result]:
    """`work` of every item, in order, with a progress bar that has `done` behind it.

    One worker is this process itself; others end with it, however it ends.
    """
    bar = tqdm(total=done + len(items), initial=done, desc=title, unit="row")
    workers = min(workers, ceil(len(items) / CHUNK_SIZE))  # more would get nothing
    pool = ProcessPoolExecutor(workers, get_context("spawn"), start_worker) if workers > 1 else None
    try:
        for result in pool.map(function, items, chunksize=CHUNK_SIZE) if pool else map(function, items):
            yield result
            bar.update()
    finally:
        bar.close()
        if pool:
            pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """Ctrl-C is for the process that was started by hand; when that one is gone, nobody waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
