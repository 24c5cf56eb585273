"""Ctrl-C and SIGTERM during a sync: the first drains, the second stops sooner; both keep stored data."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from flowmate_async.cli.exits import print_status

_DRAIN_SECONDS = 5.0
"""Drain time for users in flight; the client then allows the same again for requests on the wire."""


@contextmanager
def graceful(stop: asyncio.Event) -> Iterator[None]:
    """In the block, a first signal sets ``stop``; a second one, or five seconds, cancel the current task.

    Args:
        stop: tells the sync to start no further user.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    timers: list[asyncio.TimerHandle] = []

    def interrupt() -> None:
        if task is None or stop.is_set():
            _cancel(task)
            return
        print_status(
            f"Interrupted: finishing what was begun, {2 * _DRAIN_SECONDS:.0f} s at most; again: sooner"
        )
        stop.set()
        timers.append(loop.call_later(_DRAIN_SECONDS, _cancel, task))

    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in signals:
            loop.add_signal_handler(number, interrupt)
    except NotImplementedError:  # Windows: the loop has no handlers; Ctrl-C cancels at once
        yield
        return
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for number in signals:
            loop.remove_signal_handler(number)


def _cancel(task: asyncio.Task[object] | None) -> None:
    if task is not None:
        task.cancel()
