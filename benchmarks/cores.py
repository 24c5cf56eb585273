"""Which core does what: clients on one, servers on another, where there are two and the system can pin."""

import os
from collections.abc import Callable

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
PINNED = len(CORES) > 1
CLIENT = CORES[0] if PINNED else None
SERVER = CORES[1] if PINNED else None


def pin(pid: int, core: int | None) -> None:
    """Keep a process on one core; 0 is this one."""
    if core is not None:
        os.sched_setaffinity(pid, {core})


def pinned_to(core: int | None) -> Callable[[], None]:
    """For ``preexec_fn``: a child is pinned before it runs, and so are all its threads."""
    return lambda: pin(0, core)
