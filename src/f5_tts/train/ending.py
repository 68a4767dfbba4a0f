"""Ends of a run before its last update: signals that stop it, and what is saved when an error ends it."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from f5_tts.config.schema import TrainConfig
from f5_tts.model.checkpoint import BEST, LAST
from f5_tts.train.checkpoint_dir import CheckpointDir
from f5_tts.train.distributed import is_on_all_ranks
from f5_tts.train.metrics_log import MetricsLog
from f5_tts.train.train_state import TrainState

STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class GracefulStop:
    """Handler of Ctrl-C, SIGTERM and SIGHUP: the first stops the run after the current update, a second one at once.

    SIGHUP is the end of the terminal; where it is ignored, as under nohup, it stays so.
    """

    def __init__(self, is_main: bool = True) -> None:
        self.requested, self.is_main = False, is_main

    def __enter__(self) -> GracefulStop:
        handled = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
        self.previous_handlers = {number: signal.signal(number, self.request_stop) for number in handled}
        return self

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        """Ask for a stop after the current update, say so, and restore the previous handlers."""
        self.requested = True
        self.restore()
        if self.is_main:  # by the system's call: the signal may have come in the middle of another write
            with suppress(OSError):  # the terminal may be gone
                os.write(2, b"\nstopping after this update; a second Ctrl-C ends the run at once, without its state\n")

    def restore(self) -> None:
        """Restore the signal handlers that were in place before."""
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def __exit__(self, *error: object) -> None:
        self.restore()


@contextmanager
def save_on_error(state: TrainState, checkpoints: CheckpointDir) -> Iterator[None]:
    """Save the state after the last whole update if an error ends the body, say so, and raise the error again.

    There is no such state in the middle of an optimizer step. While updates are being skipped the files are better
    than it, and the ranks of a sharded model can save it only where the error ends all of them at the same point.
    """
    first = state.update
    try:
        yield
    except Exception as error:
        is_whole = state.update > first and not state.is_torn and not state.skips.in_a_row
        if is_whole and (not checkpoints.is_sharded or is_on_all_ranks(error)):
            save_after_error(state, checkpoints)
        raise


def save_after_error(state: TrainState, checkpoints: CheckpointDir, log: Callable[[str], None] = print) -> None:
    """Save `model_last.pt` and say so; that it cannot be saved, as where it is not finite, is said too."""
    try:
        checkpoints.save_last(state)
        outcome = f"is saved in {checkpoints.path / 'model_last.pt'}: the same command resumes there"
    except Exception as error:  # the error that ended the run is what counts
        outcome = f"cannot be saved: {error}"
    if checkpoints.is_main:
        log(f"an error ends the run; its state after update {state.update} {outcome}")


def describe_end(cfg: TrainConfig) -> str:
    """Say what a finished run wrote, and what to type next, with the weights that validations chose."""
    last, best = (Path(cfg.ckpts.save_dir) / name for name in (LAST, BEST))
    is_chosen = best.is_file()
    start, chosen = (shlex.quote(str(path)) for path in (last, best if is_chosen else last))
    by_objective = {
        "gaussian_nll": f"stage 2, f5-tts train-rl -cn NAME ckpts.init_from={start}",
        "mse": f"f5-tts infer -m {cfg.model.name} -p {chosen} -t TEXT, or f5-tts export {chosen} FOLDER",
        "grpo": f"f5-tts export {chosen} FOLDER, or f5-tts infer -m {cfg.model.name} -p {chosen} -t TEXT",
    }
    more = f", and {BEST}, which validations chose" if is_chosen else ""
    return f"wrote {last}{more}; next: {by_objective[cfg.model.objective]}"


@contextmanager
def close_on_exit(metrics_log: MetricsLog) -> Iterator[None]:
    """Close the bar and the tracker after the body; after a second Ctrl-C the bar alone, since a tracker may wait."""
    close = metrics_log.close
    try:
        yield
    except KeyboardInterrupt:
        close = metrics_log.bar.close
        raise
    finally:
        close()
