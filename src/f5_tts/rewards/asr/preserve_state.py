"""Code of others runs, and leaves the process as it found it."""

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
    """What may change inside, and is afterwards as before: random states (python's, numpy's, torch's on every device),
    torch's threads, warning filters, the root logger, the environment and `sys.path`.

    What is printed, or logged by the root logger itself, is not shown. For start-up, while no other thread draws.
    """
    python_state, numpy_state, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    environment, path, root = dict(os.environ), list(sys.path), logging.getLogger()
    level, handlers, disabled = root.level, list(root.handlers), root.disabled
    root.disabled = True  # other loggers still reach its handlers
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
