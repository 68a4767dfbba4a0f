"""Data-loading workers: how many and how they start, and what happens when one dies.

They are then started anew, and the run reads on where they stopped.
"""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from f5_tts.entrypoint import describe_end
from f5_tts.threads import local_ranks, usable_cpus

Batch = TypeVar("Batch")
END_S = 5.0  # s, until the end of a worker whose connection broke is seen
HELD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # by hold_signals
MAX_WORKERS = 16  # per rank, where the config does not say how many


def count_workers(requested: int | None) -> int:
    """Return the number of workers of this rank: what the config says, else a CPU each beside those of training."""
    if requested is not None:
        return requested
    return max(0, min(MAX_WORKERS, usable_cpus() // local_ranks() - 1))


def worker_context() -> BaseContext:
    """Return how workers start: on Linux as forks of one server that has imported what this process has of the package.

    The module that runs as a command is left out, since each worker runs it again, as `__mp_main__`. Elsewhere each
    worker is a new interpreter, which imports everything again.
    """
    if sys.platform != "linux":
        return get_context("spawn")
    context, command = get_context("forkserver"), getattr(sys.modules["__main__"], "__spec__", None)
    imported = {name for name in sys.modules if name.startswith("f5_tts.")}
    context.set_forkserver_preload(sorted(imported - {command and command.name}))
    return context


def read_with_restarts(start: Callable[[int], DataLoader[Batch]], num_workers: int) -> Iterator[Batch]:
    """Yield the batches of the loader that `start(done)` builds for the batches after the first `done` ones.

    If a worker dies, all are started anew behind the last batch. Raises ChildProcessError if one dies again before
    there is another batch.
    """
    done, restarted_at = 0, -1
    while True:
        with same_handler_of_ended_children(), hold_signals():
            batches: Any = iter(start(done))
        try:
            for batch in batches:
                yield batch
                done += 1
            return
        except (RuntimeError, OSError, EOFError) as error:
            ends = [] if is_of_the_data_set(error, num_workers) else ends_of_workers(batches)
            if not ends:
                raise
            message = f"a process that reads the data {describe_end(ends[0])}; if memory is short, "
            message += f"lower datasets.num_workers={num_workers}"
            if done == restarted_at:
                raise ChildProcessError(message) from error
        warnings.warn(f"{message} (the processes are started anew)", stacklevel=2)
        batches._shutdown_workers()
        restarted_at = done


@contextmanager
def same_handler_of_ended_children() -> Iterator[None]:
    """Restore the handler of SIGCHLD after the body.

    That of a DataLoader raises the error of a dead worker wherever the program is, even in the middle of an optimizer
    step. Without it the loader finds out when it waits for a batch.
    """
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)


@contextmanager
def hold_signals() -> Iterator[None]:
    """Hold Ctrl-C, SIGTERM and SIGHUP back until after the body; the server of workers that it starts never gets them.

    A terminal or a launcher sends them to all processes of a command. The server has to outlive them, since the run
    still reads until its update has ended; processes that are still starting would end with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # started later, it would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        with hold_handlers():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def hold_handlers() -> Iterator[None]:
    """Call the handlers of signals after the body: another thread, which does not block a signal, can receive it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: held.append(number)) for number in HELD}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in held:
            signal.raise_signal(number)


def receive_sigterm() -> None:
    """Let SIGTERM through again in a worker, which its loader ends by it."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def is_of_the_data_set(error: Exception, num_workers: int) -> bool:
    """Check whether reading a row raised the error; a worker that is alive sends it with this text."""
    return not num_workers or "in DataLoader worker process" in str(error)


def ends_of_workers(batches: Any) -> list[int]:
    """Return the exit codes of the workers that died; a broken connection may be seen before its process has ended."""
    processes: list[BaseProcess] = batches._workers
    wait([process.sentinel for process in processes], END_S)
    return [process.exitcode for process in processes if process.exitcode]
