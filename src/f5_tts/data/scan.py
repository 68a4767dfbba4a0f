"""Scan of whole recordings by several processes: the duration of each, or why it cannot be used."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from math import ceil
from multiprocessing import parent_process
from threading import Thread
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from f5_tts.console import make_output_safe
from f5_tts.data.audio import BadAudio, Source, check_samples, holds_integers, read_samples
from f5_tts.data.workers import hold_signals, receive_sigterm, worker_context

Item = TypeVar("Item")
Result = TypeVar("Result")
FRAME_S, FLOOR_SHARE = 0.025, 0.05  # length of the frames whose levels are compared; share of them below the floor
CHUNK_SIZE = 16  # items sent to a process at once


@dataclass(frozen=True, slots=True)
class ScanResult:
    """Result of scanning one recording: its duration in seconds, or the kind and the reason of a problem."""

    seconds: float | None
    kind: str = ""
    reason: str = ""
    notes: tuple[tuple[str, str], ...] = ()  # kinds and reasons of what is odd about a recording that can be used


def scan_recording(source: Source, max_seconds: float) -> ScanResult:
    """Decode a recording completely and return its duration, or why it cannot be used."""
    try:
        samples, rate = read_samples(source, max_seconds)
        check_samples(samples, rate, source)
    except BadAudio as error:
        return ScanResult(None, error.kind, str(error))
    return ScanResult(len(samples) / rate, notes=tuple(find_notes(samples, rate)))


def find_notes(samples: np.ndarray, rate: int) -> Iterator[tuple[str, str]]:
    """Yield the kinds and reasons of what is odd about samples: integers as floats, and a level that hardly changes."""
    if holds_integers(samples):
        yield "scaled", "float samples in the range of 16-bit integers, which are scaled"
    frame = max(1, round(FRAME_S * rate))
    power = np.square(samples[: len(samples) // frame * frame].astype(np.float64)).reshape(-1, frame).mean(axis=1)
    floor, loudest = np.quantile(power, FLOOR_SHARE), power.max()
    if loudest < 10 * floor:
        range_db = 10 * np.log10(loudest / floor)
        yield "flat level", f"no frame is 10 dB above its floor (the loudest {range_db:.1f} dB): speech has pauses"


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str, done: int = 0
) -> Iterator[Result]:
    """Yield `function` of every item in order, with a progress bar that starts at `done`.

    One worker means this process. More workers are processes that exit when this one does, however it ends.
    """
    bar = tqdm(total=done + len(items), initial=done, desc=title, unit="row")
    workers = min(workers, ceil(len(items) / CHUNK_SIZE))  # more workers would get no items
    pool = ProcessPoolExecutor(workers, worker_context(), start_worker) if workers > 1 else None
    try:
        with hold_signals():
            results = pool.map(function, items, chunksize=CHUNK_SIZE) if pool else map(function, items)
        for result in results:
            yield result
            bar.update()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"a process that reads recordings was killed: the system does this when memory runs out; lower --workers "
            f"{workers}, and the same command goes on"
        ) from error
    finally:
        bar.close()
        if pool:
            pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """Ignore Ctrl-C in a worker, which the parent process handles, and watch for the parent's exit."""
    make_output_safe()
    receive_sigterm()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """Wait for the parent process to end, then exit."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
