"""Number of threads that a command computes with, by the cores that are free; sums of floats depend on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SET_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # environment variables, which launchers set too


def usable_cpus() -> int:
    """Count the CPUs that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def busy_cpus() -> float:
    """Estimate how many of these CPUs other processes use.

    It is the lower one of two numbers: the load average of the last minute, in which a command counts that has just
    ended, and the tasks that run at this moment. Where this process may use only a part of the machine, as in a job of
    a cluster, that part is its own.
    """
    if usable_cpus() < (os.cpu_count() or 1) or not hasattr(os, "getloadavg"):
        return 0.0
    average = os.getloadavg()[0]
    try:
        with Path("/proc/loadavg").open(encoding="ascii") as file:
            running = int(file.read().split()[3].partition("/")[0]) - 1  # without this process
    except (OSError, ValueError, IndexError):  # not on macOS
        return average
    return max(0.0, min(average, running))


def local_ranks() -> int:
    """Count the processes that a launcher has started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def free_cpus() -> int:
    """Return the number of CPUs for this process: those that are free, shared with the processes of its launcher."""
    return max(1, round(usable_cpus() - busy_cpus()) // local_ranks())


def is_set_by_user() -> bool:
    """Check whether the user or a launcher has chosen the number of threads."""
    return any(name in os.environ for name in SET_BY_USER)


def limit_threads() -> None:
    """Let torch compute with the cores that are free, and say so where it would take more of them by itself."""
    import torch  # which the command has imported by now

    own, free = torch.get_num_threads(), free_cpus()
    if is_set_by_user() or free >= own:
        return
    torch.set_num_threads(free)
    if os.environ.get("RANK", "0") == "0":
        why = "other processes are at work" if busy_cpus() >= 1 else "processes share the cores"
        print(f"computing with {free} of {own} threads: {why}; OMP_NUM_THREADS={own} takes all", file=sys.stderr)
