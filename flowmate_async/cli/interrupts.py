"""Ctrl-C and SIGTERM during a sync: the first drains, the second stops sooner; both keep stored data."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from flowmate_async.cli.exits import print_status

_DRAIN_SECONDS = 5.0
"""Drain time for users in flight; the client then allows the same again for requests on the wire."""


class Interruption:
    """What signals do to a sync; see :func:`graceful`.

    Args:
        stop: tells the sync to start no further user.
    """

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._told = False

    def __call__(self) -> None:
        """Handle a signal."""
        if not self._stop.is_set():
            print_status(
                f"Interrupted. Finishing users in flight (up to {2 * _DRAIN_SECONDS:.0f} s). "
                "Press Ctrl-C again to stop now.",
                event="interrupted",
            )
            self._stop.set()
            self._timer = asyncio.get_running_loop().call_later(_DRAIN_SECONDS, _cancel, self._task)
            return
        if not self._told:
            print_status(
                f"Stopping now. Requests on the wire get up to {_DRAIN_SECONDS:.0f} s, so that no refreshed "
                "token is lost.",
                event="stopping",
            )
            self._told = True
        _cancel(self._task)

    def drained(self) -> None:
        """Note that the users in flight are done: what follows has its own time."""
        if self._timer is not None:
            self._timer.cancel()


@contextmanager
def graceful(stop: asyncio.Event) -> Iterator[Interruption]:
    """In the block, a first signal sets ``stop``; a second one, or five seconds, cancel the current task.

    Args:
        stop: tells the sync to start no further user.
    """
    loop = asyncio.get_running_loop()
    interruption = Interruption(stop)
    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in signals:
            loop.add_signal_handler(number, interruption)
    except NotImplementedError:  # Windows: the loop has no handlers; Ctrl-C cancels at once
        yield interruption
        return
    try:
        yield interruption
    finally:
        interruption.drained()
        for number in signals:
            loop.remove_signal_handler(number)


def _cancel(task: asyncio.Task[object] | None) -> None:
    if task is not None:
        task.cancel()
