"""Prefetch: keep a working set of credentials fresh, so that callers need not wait."""

import asyncio
import heapq
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from flowmate_async.access.cache import Credentials
from flowmate_async.clock import Clock
from flowmate_async.engine.priority import set_background
from flowmate_async.errors import ConfigurationError, FlowMateError

_Key = tuple[str, str]

_WORKERS = 8
_AFTER_FAILURE_SECONDS = 30.0
_LOOK_SECONDS = 60.0


def _checked(pair: object) -> _Key:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ConfigurationError("keep_fresh takes (username, secret id) pairs", advice='Pass [("…", "…")]')
    return pair[0], pair[1]


class Prefetch:
    """A background refresher of some credentials. It runs while it is entered.

    Each credential is refreshed when its own advisory window begins. The cache draws that window at random,
    so that credentials created together are not refreshed together.

    Args:
        credentials: the cache to keep fresh.
        pairs: ``(username, secret id)`` pairs.
        clock: the client's clock.

    Raises:
        ConfigurationError: ``pairs`` contains something other than pairs.
    """

    def __init__(self, credentials: Credentials, pairs: Iterable[_Key], *, clock: Clock) -> None:
        self._credentials = credentials
        self._pairs = list(dict.fromkeys(map(_checked, pairs)))
        self._clock = clock
        self._due: list[tuple[float, _Key]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._credentials.require_own_loop()
        self._due = [(self._clock.monotonic(), key) for key in self._pairs]
        heapq.heapify(self._due)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._work()) for _ in range(min(_WORKERS, len(self._pairs)))]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _work(self) -> None:
        """Refresh credentials as they become due, in a loop."""
        set_background()
        while self._due:
            due, key = heapq.heappop(self._due)
            try:
                await self._until(due, key)
                again = await self._refreshed(key)
            except BaseException:
                heapq.heappush(self._due, (due, key))
                raise
            if again is not None:
                heapq.heappush(self._due, (again, key))

    async def _until(self, due: float, key: _Key) -> None:
        """Wait until a refresh is due, also by the wall clock after the machine was suspended."""
        while (seconds := due - self._clock.monotonic()) > 0 and not self._is_overdue(key):
            await self._clock.sleep(min(seconds, _LOOK_SECONDS))

    def _is_overdue(self, key: _Key) -> bool:
        seconds = self._credentials.refresh_due_in(key) if self._credentials.holds(key) else None
        return seconds is not None and seconds <= 0

    async def _refreshed(self, key: _Key) -> float | None:
        """Refresh one credential if it is due. Return when to check it again; ``None`` for never."""
        now = self._clock.monotonic()
        try:
            await self._credentials.refresh_if_due(key)
        except FlowMateError:
            return now + _AFTER_FAILURE_SECONDS  # the next caller gets the error
        seconds = self._credentials.refresh_due_in(key)
        return None if seconds is None else now + max(seconds, 1.0)
