"""Isolation of process state from code that changes it."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import numpy as np
import torch


@contextmanager
def preserve_process_state() -> Iterator[None]:
    """Restore the process state after the block.

    The state is: the random states of Python, NumPy and torch on every device, torch's number of threads, the warning
    filters, the root logger, the environment and `sys.path`.

    Output to stdout and messages of the root logger itself are suppressed. Use it at start-up, while no other thread
    draws random numbers.
    """
    python_state, numpy_state, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    environment, path, root = dict(os.environ), list(sys.path), logging.getLogger()
    level, handlers, disabled = root.level, list(root.handlers), root.disabled
    root.disabled = True  # other loggers still use its handlers
    devices = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices), warnings.catch_warnings(), redirect_stdout(StringIO()):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_num_threads(threads)
        root.setLevel(level)
        root.handlers[:], root.disabled = handlers, disabled
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
